"""The figures of a page, each with what to look for and the numbers it was drawn from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from mismatch_lab.measures.tokens import DeltaHistogram, Stratum
from mismatch_lab.report import figures
from mismatch_lab.report.numbers import count, ends, estimate_value, interval, number, signed
from mismatch_lab.report.run_files import RunFiles
from mismatch_lab.report.series import token_series
from mismatch_lab.schema import EstimateRecord, Localisation, RoutingFindings, WorstRun


@dataclass(frozen=True)
class FigurePart:
    """A figure: `rows` are the cells of the table beneath, the first of each its header."""

    part: str
    title: str
    svg: Markup
    caption: str
    columns: list[str]
    rows: list[list[str]]
    marked: int = -1
    """Index of the row to set off, -1 for none."""


def figure_parts(run: RunFiles) -> list[FigurePart]:
    """Every figure this run has data for."""
    parts: list[FigurePart] = []
    if run.pair is not None:
        series = token_series(run.pair)
        if series.histogram is not None:
            parts.append(_histogram(series.histogram, series.scale_nats))
        if series.positions:
            parts.append(_positions(series.positions))
            parts.append(_probabilities(series.probabilities))
    localisation, routing = run.findings.localisation, run.findings.routing
    if localisation is not None and localisation.per_module:
        parts.append(_modules(localisation))
    if routing is not None and routing.per_layer:
        parts.append(_routing(routing))
    return parts


def _histogram(data: DeltaHistogram, scale_nats: float) -> FigurePart:
    filled = np.flatnonzero(data.counts)
    dropped = f" {count(data.n_dropped)} tokens are not finite." if data.n_dropped else ""
    return FigurePart(
        "tokens",
        "How far apart, token by token",
        figures.histogram(data, scale_nats),
        "A narrow peak at 0 is rounding. A shifted peak is an offset that all tokens share; a "
        "heavy tail on one side is a defect that hits some of them. Counts are on a log axis; "
        f"dashed lines mark ratios of 0.8 and 1.25.{dropped}",
        ["Δ from (nats)", "to", "tokens"],
        [
            [signed(float(data.edges[i])), signed(float(data.edges[i + 1])), count(data.counts[i])]
            for i in filled
        ],
    )


def _positions(strata: list[Stratum]) -> FigurePart:
    def name(stratum: Stratum) -> str:
        first, last = int(stratum.low), int(stratum.high) - 1
        return f"{first:,}" if first == last else f"{first:,}–{last:,}"

    return FigurePart(
        "tokens",
        "Along the response",
        figures.by_position(strata),
        "Flat is rounding. A spike at the first position points at the seam of prompt and "
        "response; growth points at positions, cache or window. The band is the 95 % interval.",
        ["position", "mean |Δ| (nats)", "95 % interval", "mean Δ (nats)", "n"],
        [[name(s), *_cells(s)] for s in strata],
    )


def _probabilities(strata: list[Stratum]) -> FigurePart:
    def name(stratum: Stratum) -> str:
        return f"{stratum.low:g}–{min(1.0, stratum.high):g}"

    return FigurePart(
        "tokens",
        "By how sure the engine was",
        figures.by_probability(strata),
        "Rounding moves unlikely tokens most and sure ones hardly. Large deltas on tokens above "
        "0.9 are not rounding. A truncated or tempered distribution shows as a slope.",
        ["engine's probability", "mean |Δ| (nats)", "95 % interval", "mean Δ (nats)", "n"],
        [[name(s), *_cells(s)] for s in strata],
    )


def _modules(data: Localisation) -> FigurePart:
    names = [module.name for module in data.per_module]
    first = data.first_divergent_module
    caption = (
        "Cumulative error carries along what happened before; isolated error is the module's own, "
        "on equal inputs. Look for the first step out of the floor, not for the largest value. The "
        "worst run is the eight consecutive positions with the largest median error."
    )
    return FigurePart(
        "modules",
        "Relative error, module by module",
        figures.modules(data),
        caption,
        [
            *("module", "kind", "cumulative", "isolated", "floor", "engine", "trainer"),
            *("worst run", "its floor", "its tokens", "verdict", "n"),
        ],
        [
            [
                m.name,
                m.kind,
                *map(number, (m.cumulative, m.isolated, m.floor, m.infer_error, m.train_error)),
                *_run(m.worst_run),
                "diverges" if m.diverges else "within the floor" if math.isfinite(m.floor) else "–",
                count(m.n),
            ]
            for m in data.per_module
        ],
        names.index(first) if first in names else -1,
    )


def _run(worst: WorstRun | None) -> list[str]:
    if worst is None:
        return ["–", "–", "–"]
    return [number(worst.error), number(worst.floor), f"{worst.start}–{worst.stop - 1}"]


def _routing(data: RoutingFindings) -> FigurePart:
    def row(layer: int, top1: EstimateRecord, overlap: EstimateRecord) -> list[str]:
        cells = (estimate_value(top1), interval(top1), estimate_value(overlap), interval(overlap))
        return [str(layer), *cells, count(top1.n)]

    return FigurePart(
        "routing",
        "Do both sides pick the same experts?",
        figures.routing(data),
        "A slow fall with depth is rounding near ties. A drop at one layer is that layer's router, "
        "or what feeds it. Bars are 95 % intervals.",
        ["layer", "top-1 agreement", "95 % interval", "set overlap", "95 % interval", "n"],
        [row(a.layer, a.top1_agreement, a.set_overlap) for a in data.per_layer],
    )


def _cells(stratum: Stratum) -> list[str]:
    absolute, mean = stratum.abs_delta_mean, stratum.mean_delta
    band = ends(absolute.ci95_low, absolute.ci95_high)
    return [number(absolute.value), band, signed(mean.value), count(absolute.n)]
