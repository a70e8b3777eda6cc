"""Draw the figures with matplotlib, as SVG whose texts stay texts.

Every drawing is small (4.4 by 2.9 inches), so that its letters can be read on a phone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from mismatch_lab.measures.tokens import DeltaHistogram, Stratum
from mismatch_lab.report.numbers import MINUS
from mismatch_lab.report.svg import ACCENT, BAD, INK, LINE, MUTED, WARM, themed
from mismatch_lab.report.text import shorten, visible
from mismatch_lab.schema import EstimateRecord, Localisation, RoutingFindings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mismatch-lab",
    "text.parse_math": False,  # module names are data, not formulas
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}
BAND_RATIO = (0.8, 1.25)


def histogram(data: DeltaHistogram, scale_nats: float) -> Markup:
    """Tokens per bin of delta, on an asinh axis; dashed lines bound ratios of 0.8 and 1.25."""

    def draw(axes: Axes) -> None:
        edges = np.arcsinh(data.edges / scale_nats)
        bottom = 0.5  # half a token: a bin with one token still shows on a log axis
        counts = np.maximum(data.counts, bottom)
        axes.bar(edges[:-1], counts - bottom, np.diff(edges), bottom, align="edge", color=ACCENT)
        _log_scale(axes)
        axes.set_ylim(bottom, float(counts.max()) * 1.6)
        reach = float(data.edges[-1])
        filled = edges[np.flatnonzero(data.counts)]
        room = 0.3 * edges[-1]  # a one-sided histogram keeps a part of its empty side
        axes.set_xlim(min(float(filled[0]), -room) * 1.03, max(float(filled[-1]), room) * 1.1)
        ticks = _asinh_ticks(scale_nats, reach)
        axes.set_xticks([float(np.arcsinh(t / scale_nats)) for t in ticks], map(_tick, ticks))
        for bound in np.log(BAND_RATIO):
            if abs(bound) < reach:
                axes.axvline(float(np.arcsinh(bound / scale_nats)), color=WARM, ls="--", lw=1.2)
        axes.axvline(0, color=INK, lw=0.8)
        axes.set_xlabel("◂ less likely\u2003Δ in nats\u2003likelier ▸")
        axes.set_ylabel("tokens per bin")

    return _figure(draw, "delta-histogram", "Histogram of delta")


def by_position(strata: Sequence[Stratum]) -> Markup:
    """Mean |delta| with its band, and mean delta, along the response."""

    def draw(axes: Axes) -> None:
        last = strata[-1].high
        logarithmic = last > 32
        centres = [(s.low + s.high - 1) / 2 for s in strata]
        x = np.log10(np.array(centres) + 1) if logarithmic else np.array(centres)
        _strata(axes, x, strata)
        if logarithmic:
            ticks = [t for t in (0, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000) if t < last]
            axes.set_xticks([float(np.log10(t + 1)) for t in ticks], [f"{t:,}" for t in ticks])
        axes.set_xlabel("position in the response")

    return _figure(draw, "delta-position", "Mean absolute delta by position in the response")


def by_probability(strata: Sequence[Stratum]) -> Markup:
    """Mean |delta| by the probability the engine gave the token."""

    def draw(axes: Axes) -> None:
        x = np.arange(len(strata))
        _strata(axes, x, strata)
        edges = [f"{s.low:g}" for s in strata] + [f"{min(1.0, strata[-1].high):g}"]
        axes.set_xticks(np.arange(len(strata) + 1) - 0.5, edges)
        axes.set_xlabel("probability the engine gave the token")

    return _figure(draw, "delta-probability", "Mean absolute delta by token probability")


def modules(data: Localisation) -> Markup:
    """Relative error of each module, in forward order; the first that diverges is marked."""

    def draw(axes: Axes) -> None:
        x = np.arange(len(data.per_module))
        cumulative, isolated, floor = (
            np.array([getattr(m, field) for m in data.per_module], float)
            for field in ("cumulative", "isolated", "floor")
        )
        shown = np.concatenate([a[np.isfinite(a) & (a > 0)] for a in (cumulative, isolated, floor)])
        low = float(shown.min()) / 3 if len(shown) else 1e-9
        _log_scale(axes)
        if np.isfinite(floor).any():
            axes.fill_between(x, low, np.maximum(floor, low), color=MUTED, alpha=0.22, lw=0)
            axes.plot(x, np.maximum(floor, low), color=MUTED, ls="--", lw=1.2, label="floor")
        axes.plot(
            x, np.maximum(cumulative, low), color=ACCENT, marker="o", ms=3, label="cumulative"
        )
        if np.isfinite(isolated).any():
            dots = np.maximum(isolated, low)
            axes.plot(x, dots, color=WARM, marker="^", ls="none", label="isolated")
        high = float(shown.max()) if len(shown) else 1.0
        axes.set_ylim(low, high * (high / low) ** 0.2)  # headroom for the name of the first
        _mark_first(axes, data)
        axes.set_xlabel("modules in forward order")
        axes.set_ylabel("relative error")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)

    return _figure(draw, "modules", "Relative error of each module")


def routing(data: RoutingFindings) -> Markup:
    """Top-1 agreement and overlap of the expert sets, for each layer."""

    def draw(axes: Axes) -> None:
        x = np.array([layer.layer for layer in data.per_layer], float)
        shift = 0.08
        top1 = [layer.top1_agreement for layer in data.per_layer]
        overlap = [layer.set_overlap for layer in data.per_layer]
        _points(axes, x - shift, top1, ACCENT, "o", "top-1 agreement")
        _points(axes, x + shift, overlap, WARM, "^", "set overlap")
        axes.set_ylim(top=1.0)
        axes.margins(y=0.15)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("layer")
        axes.set_ylabel("share")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    return _figure(draw, "routing", "Routing agreement per layer")


def _figure(draw: Callable[[Axes], None], name: str, label: str) -> Markup:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(4.4, 2.9), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        draw(axes)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return themed(stream.getvalue(), name, label)


def _strata(axes: Axes, x: np.ndarray[Any, Any], strata: Sequence[Stratum]) -> None:
    absolute = [s.abs_delta_mean for s in strata]
    low = np.array([e.ci95_low for e in absolute])
    high = np.array([e.ci95_high for e in absolute])
    axes.axhline(0, color=INK, lw=0.8)
    axes.fill_between(x, low, high, color=ACCENT, alpha=0.2, lw=0)
    axes.plot(x, [e.value for e in absolute], color=ACCENT, marker="o", label="mean |Δ|")
    axes.plot(x, [s.mean_delta.value for s in strata], color=WARM, ls="--", label="mean Δ")
    axes.set_ylabel("nats")
    _plain_labels(axes)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _points(
    axes: Axes,
    x: np.ndarray[Any, Any],
    estimates: Sequence[EstimateRecord],
    colour: str,
    marker: str,
    label: str,
) -> None:
    values = np.array([e.value for e in estimates])
    ends = np.array([e.ci95 for e in estimates])
    axes.vlines(x, ends[:, 0], ends[:, 1], color=colour, lw=1.6)
    axes.plot(x, values, color=colour, marker=marker, lw=1, label=label)


def _mark_first(axes: Axes, data: Localisation) -> None:
    names = [module.name for module in data.per_module]
    if data.first_divergent_module not in names:
        return
    at = names.index(data.first_divergent_module)
    axes.axvline(at, color=BAD, lw=2)
    right = at > len(names) / 2
    axes.annotate(
        shorten(visible(names[at]), 30),
        (at, 1),
        (-5 if right else 5, -11),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right" if right else "left",
        color=BAD,
        fontsize=9.5,
    )


def _log_scale(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_minor_formatter(NullFormatter())
    _plain_labels(axes)


def _plain_labels(axes: Axes) -> None:
    """Labels as plain text: mathtext is off, since names are data."""
    from matplotlib.ticker import FuncFormatter

    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))


def _asinh_ticks(scale: float, reach: float) -> list[float]:
    """0 and a few round values on either side."""
    if reach <= scale * 1.001:
        step = 10 ** np.floor(np.log10(reach))
        if reach / step >= 2:
            step *= np.floor(reach / step / 2)
        sides = [step * k for k in range(1, int(reach / step) + 1)][:3]
    else:
        exponents = np.arange(np.ceil(np.log10(scale)), np.floor(np.log10(reach)) + 1)
        stride = int(np.ceil(len(exponents) / 3)) or 1
        sides = [float(10**e) for e in exponents[::-1][::stride]] or [reach]
    return sorted([-s for s in sides] + [0.0] + sides)


def _tick(value: float) -> str:
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("e-0", "e-").replace("-", MINUS)
