"""The metrics that people look at, a line each: the last value, the first, and the whole run."""

from __future__ import annotations

import math
from itertools import groupby

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from mismatch_lab.report.numbers import number
from mismatch_lab.report.screen import Screen
from mismatch_lab.report.sparkline import ASCII, BLOCKS, sparkline
from mismatch_lab.trainer.comparison.curves import Rows, series
from mismatch_lab.trainer.comparison.shown import HELD_OUT, MEAN_ABS_DELTA, SHOWN, Shown

KEPT_LONGEST = (
    HELD_OUT,
    "reward",
    MEAN_ABS_DELTA,
    "grad_norm",
    "decode_train/kl_infer_train_k3",
    "entropy",
    "truncated_share",
    "kl_ref",
    "clip_fraction",
    "train_train/abs_delta_mean",
    "decode_train/ess",
    "correction/weight_mean",
    "routing/set_agreement",
    "decode_train/ratio_outside_share",
)
"""Where lines are few, the last of them go first."""
NUMBER = 10
"""Columns of a number with the space before it."""
SPARKLINE = 32
"""Columns at most."""
LEAST_SPARKLINE = 8
"""With room for fewer there is none."""


def table(rows: Rows, room: int, screen: Screen) -> list[Text]:
    """All metrics that have values, in at most `room` lines; nothing before there are any.

    Where that is too few, the names of the parts go first, then the least important metrics.
    """
    names = [name for name, shown in SHOWN.items() if shown.drawn and _has_values(rows, name)]
    parts = 1 + len(names) + len({SHOWN[name].part for name in names}) <= room
    if not parts:
        kept = sorted(names, key=KEPT_LONGEST.index)[: max(0, room - 1)]
        names = [name for name in names if name in kept]
    if not names:
        return []
    cells = {name: "  " * parts + screen.spelt(_titled(SHOWN[name])) for name in names}
    columns = min(max(map(cell_len, cells.values())), max(0, screen.width - 2 * NUMBER))
    head = f"{'now':>{NUMBER}}{'at start':>{NUMBER}}"
    lines = [screen.line((" " * columns + head, "dim"))]
    for part, members in groupby(names, key=lambda name: SHOWN[name].part):
        if parts:
            lines.append(screen.line((part, "bold")))
        for name in members:
            lines.append(_line(rows, name, set_cell_size(cells[name], columns), screen))
    return lines


def _has_values(rows: Rows, name: str) -> bool:
    return any(map(math.isfinite, series(rows, name).values()))


def _titled(shown: Shown) -> str:
    return f"{shown.title} {shown.unit}".rstrip()


def _line(rows: Rows, name: str, cell: str, screen: Screen) -> Text:
    """A step without the metric leaves what is known; one that has it as NaN does not."""
    found = series(rows, name)
    values = list(found.values())
    start, now = (f"{screen.spelt(number(v)):>{NUMBER}}" for v in (values[0], values[-1]))
    width = min(SPARKLINE, screen.width - cell_len(cell) - 2 * NUMBER - 2)
    curve = ""
    if width >= LEAST_SPARKLINE:
        points = [found.get(row["step"], math.nan) for row in rows]
        levels = ASCII if screen.ascii_only else BLOCKS
        curve = "  " + sparkline(points, width, SHOWN[name].spans_decades, levels)
    return screen.line((cell, ""), (now, "bold"), (start, ""), (curve, ""))
