import math
import xml.etree.ElementTree as ET

import numpy as np

from mismatch_lab.captures.align import Aligned
from mismatch_lab.report import figures
from mismatch_lab.report.series import token_series
from mismatch_lab.schema import (
    EstimateRecord,
    LayerRouting,
    Localisation,
    ModuleError,
    RoutingFindings,
)

SVG = "{http://www.w3.org/2000/svg}"
NOTHING = EstimateRecord(value=math.nan, n=0, n_dropped=0, ci95=(math.nan, math.nan))


def texts(svg: str) -> list[str]:
    """Texts of a figure, which must be well-formed XML."""
    return ["".join(node.itertext()) for node in ET.fromstring(svg).iter(f"{SVG}text")]


def module(name: str, cumulative: float) -> ModuleError:
    return ModuleError(name=name, kind="mlp", cumulative=cumulative, diverges=False, n=4)


def localisation(modules: list[ModuleError], first: str | None) -> Localisation:
    return Localisation(
        depth="standard", method="", first_divergent_module=first, side=None, per_module=modules
    )


def test_texts_stay_texts_and_colours_are_the_pages() -> None:
    drawn = figures.modules(localisation([module("a", 0.1), module("b", 1.0)], "b"))
    assert "relative error" in texts(drawn)
    assert "var(--accent)" in drawn
    assert not [colour for colour in ("#010101", "#040404", "#060606") if colour in drawn]
    assert "metadata" not in drawn
    assert 'id="figure_1"' not in drawn


def test_module_names_are_data_not_formulas_or_markup() -> None:
    name = "$\\frac{1}{2}$<script>"
    drawn = figures.modules(localisation([module(name, 0.1), module("b", 1.0)], name))
    assert name in texts(drawn)
    assert "<script" not in drawn


def test_a_module_that_was_not_measured_does_not_break_the_figure() -> None:
    assert texts(figures.modules(localisation([module("a", math.nan)], None)))
    assert texts(figures.modules(localisation([module("a", 0.0), module("b", 0.5)], "b")))


def test_layers_without_routing_do_not_break_the_figure() -> None:
    layer = LayerRouting(layer=0, top1_agreement=NOTHING, set_overlap=NOTHING)
    data = RoutingFindings(
        edge="prefill_train",
        top1_agreement=NOTHING,
        set_overlap=NOTHING,
        flipped_token_share=NOTHING,
        abs_delta_flipped=NOTHING,
        abs_delta_unflipped=NOTHING,
        per_layer=[layer],
    )
    assert "layer" in texts(figures.routing(data))


def test_equal_sides_and_a_single_token_can_be_drawn() -> None:
    for delta in ([0.0, 0.0, 0.0], [0.5], [1e-30, -1e-30], [40.0, 1e-9, -1e-9]):
        infer = np.full(len(delta), -50.0)
        at = np.arange(len(delta))
        probes = (np.zeros(0, np.int64), np.zeros(0, np.int64))
        series = token_series(
            # In float64, so that 1e-30 is not lost beside -50.
            Aligned(at, np.zeros_like(at), np.zeros_like(infer), np.array(delta), probes)
        )
        assert series.histogram is not None
        assert "tokens per bin" in texts(figures.histogram(series.histogram, series.scale_nats))
        assert "nats" in texts(figures.by_position(series.positions))
        assert "nats" in texts(figures.by_probability(series.probabilities))
