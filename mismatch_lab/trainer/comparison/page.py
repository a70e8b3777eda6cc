"""comparison.html: one file that asks for nothing else."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

from mismatch_lab.report import numbers
from mismatch_lab.report.figure_parts import FigurePart
from mismatch_lab.report.single_file import render_page, style, write_whole
from mismatch_lab.resources import reports_dir
from mismatch_lab.trainer.comparison.figures import draw, legend, log_foot
from mismatch_lab.trainer.comparison.records import Comparison, Curve
from mismatch_lab.trainer.comparison.shown import GAIN, HELD_OUT, MEAN_ABS_DELTA, SHOWN, Shown
from mismatch_lab.trainer.comparison.summary import GLYPHS, TONES, against, cell

PAGE_FILE = "comparison.html"
TEMPLATE = "comparison.html.j2"
PARTS = {
    "learning": ("Learning", "Does the arm learn, and does that carry to problems it never saw?"),
    "policy": ("The policy and its updates", "How a collapse looks from the inside."),
    "mismatch": (
        "Mismatch",
        "Engine against trainer on the tokens just sampled, measured at every step whatever the "
        "loss is told.",
    ),
}
POINTS_SHOWN = 12
"""Rows of the table beneath a figure."""


def write_page(found: Comparison, out: Path) -> Path:
    """Render the comparison into `out/comparison.html`, whole or not at all."""
    return write_whole(out / PAGE_FILE, render(found, reports_dir()))


def render(found: Comparison, templates: Path) -> str:
    """The page as text."""
    shown = {**context(found), "own_css": style(templates, "comparison.css")}
    return render_page(TEMPLATE, templates, shown, {"cell": cell, "against": against})


def context(found: Comparison) -> dict[str, Any]:
    """Everything the template names."""
    arms = [arm.name for arm in found.arms]
    measured = [name for name in SHOWN if name in found.finals]
    return {
        "found": found,
        "arms": arms,
        "legend": legend(arms),
        "held_out": HELD_OUT,
        "gain": GAIN,
        "mean_abs_delta": MEAN_ABS_DELTA,
        "shown": SHOWN,
        "main": [name for name in measured if SHOWN[name].drawn or name == GAIN],
        "others": [name for name in measured if not (SHOWN[name].drawn or name == GAIN)],
        "parts": PARTS,
        "figures": {part: figure_parts(found, part) for part in PARTS},
        "steady": {part: steady(found, part) for part in PARTS},
        "tones": TONES,
        "glyphs": GLYPHS,
        "command": shlex.join(found.provenance.command),
        "commands": [shlex.join(run.command) for run in found.runs],
        "unfinished": [run for run in found.runs if run.state != "finished"],
        "total_s": math.fsum(run.seconds for run in found.runs if math.isfinite(run.seconds)),
    }


def figure_parts(found: Comparison, part: str) -> list[FigurePart]:
    """The figures of a part of the page: metrics that some run has and that are not constant."""
    arms = [arm.name for arm in found.arms]
    return [
        _figure(found.curves[name], SHOWN[name], arms, f"curve-{name}")
        for name in _of_part(found, part)
        if len(_values(found.curves[name])) > 1
    ]


def steady(found: Comparison, part: str) -> list[tuple[str, float]]:
    """Title and value of metrics that are the same at every step of every run."""
    return [
        (SHOWN[name].title, min(_values(found.curves[name])))
        for name in _of_part(found, part)
        if len(_values(found.curves[name])) == 1
    ]


def _of_part(found: Comparison, part: str) -> list[str]:
    return [name for name, shown in SHOWN.items() if shown.part == part and name in found.curves]


def _values(curves: dict[str, Curve]) -> set[float]:
    every = {value for curve in curves.values() for value in (*curve.low, *curve.high)}
    return {value for value in every if math.isfinite(value)}


def _figure(curves: dict[str, Curve], shown: Shown, arms: list[str], name: str) -> FigurePart:
    title = f"{shown.title} ({shown.unit})" if shown.unit else shown.title
    caption = shown.caption
    foot = log_foot(curves) if shown.spans_decades else None
    if foot is not None and any(value == 0 for c in curves.values() for value in c.low):
        caption += " Log axis; 0 is drawn at its foot."
    steps = sorted({step for curve in curves.values() for step in curve.steps_made})
    stride = math.ceil(len(steps) / POINTS_SHOWN)
    # The last one always, and others evenly back from it.
    chosen = steps[::-1][::stride][::-1]
    rows = [[numbers.count(s), *(_at(curves.get(arm), s) for arm in arms)] for s in chosen]
    safe = name.replace("/", "-")
    svg = draw(curves, arms, safe, f"{title} by steps made", shown.spans_decades)
    return FigurePart("", title, svg, caption, ["steps made", *arms], rows)


def _at(curve: Curve | None, step: int) -> str:
    if curve is None or step not in curve.steps_made:
        return ""
    at = curve.steps_made.index(step)
    band = numbers.ends(curve.low[at], curve.high[at]) if curve.n[at] > 1 else ""
    return f"{numbers.number(curve.mean[at])} {band}".rstrip()
