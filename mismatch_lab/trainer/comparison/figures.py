"""A metric over training: a line for each arm with the range of its seeds."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from mismatch_lab.report.figures import STYLE
from mismatch_lab.report.numbers import MINUS
from mismatch_lab.report.svg import themed
from mismatch_lab.trainer.comparison.records import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

N_COLOURS = 6
COLOURS = tuple(f"#0a0b0{i}" for i in range(N_COLOURS))
"""To draw with; the page's variables `--arm-0`, … take their place."""
DASHES = ("", "6 2", "2 2", "7 2 2 2")
"""As SVG writes them. With six colours twelve arms differ, and colour is never alone."""

LOG_FROM_RATIO = 30.0
"""Largest over smallest value from which on a log axis is the readable one."""


def look(index: int) -> tuple[int, str]:
    """Colour and dashes of the arm at a place."""
    return index % N_COLOURS, DASHES[index % len(DASHES)]


def draw(curves: Mapping[str, Curve], looks: list[str], name: str, label: str, log: bool) -> Markup:
    """The figure.

    Args:
        curves: by arm.
        looks: all arms of the page, in their order, so that an arm looks the same everywhere.
        name: unique in the page.
        label: what a screen reader says.
        log: whether the axis may be logarithmic; values of 0 are then drawn at its foot.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(4.4, 2.7), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        foot = log_foot(curves) if log else None
        for arm, curve in curves.items():
            _line(axes, curve, looks.index(arm), foot)
        _axes(axes, foot)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    svg = str(themed(stream.getvalue(), name, label))
    for index, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--arm-{index})")
    return Markup(svg)  # only colours were put in


def log_foot(curves: Mapping[str, Curve]) -> float | None:
    """Lower end of a log axis; None where values do not differ enough for one, or are negative."""
    values = np.array([v for c in curves.values() for v in (*c.low, *c.high)], float)
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive) or (values < 0).any():
        return None
    low, high = float(positive.min()), float(positive.max())
    return low / 2 if high / low >= LOG_FROM_RATIO else None


def _line(axes: Axes, curve: Curve, index: int, foot: float | None) -> None:
    colour, dashes = look(index)
    mean, low, high = (
        np.maximum(np.array(values, float), -np.inf if foot is None else foot)
        for values in (curve.mean, curve.low, curve.high)
    )
    x = np.array(curve.steps_made)
    style: Any = (0, tuple(map(float, dashes.split()))) if dashes else "-"
    axes.fill_between(x, low, high, color=COLOURS[colour], alpha=0.15, lw=0)
    marker = "o" if np.isfinite(mean).sum() < 12 else ""
    axes.plot(x, mean, color=COLOURS[colour], ls=style, marker=marker, ms=3.5)


def _axes(axes: Axes, foot: float | None) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if foot is not None:
        axes.set_yscale("log")
        axes.set_ylim(bottom=foot)
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.set_xlabel("optimizer steps made")


def legend(arms: list[str]) -> list[dict[str, Any]]:
    """Name, colour and dashes of each arm."""
    looks = [look(index) for index in range(len(arms))]
    return [
        {"name": arm, "colour": colour, "dashes": dashes}
        for arm, (colour, dashes) in zip(arms, looks, strict=True)
    ]


def _tick(value: float) -> str:
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("e-0", "e-").replace("-", MINUS)
