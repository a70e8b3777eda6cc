"""Log-probs on a coarse grid: rounded to a short format, or written with few decimals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.attribution.token_changes import TOKEN_CHANGES, Float64
from mismatch_lab.captures.capture import Int64, Rows

GRIDS: dict[str, tuple[str, float]] = {
    "of bfloat16": ("through_bfloat16", 0),
    "of float16": ("through_float16", 0),
    **{f"of {digits} decimals": ("decimals", digits) for digits in (1, 2, 3, 4)},
}
"""name -> row of TOKEN_CHANGES and its number."""

ON_GRID = 0.99
"""Share of a side's values that lie on a grid if it was rounded to it."""

FEWEST_IN_ROW = 6
"""Values needed to say that a row lies on a grid: one in 100 lies on that of 4 decimals anyway."""


@dataclass(frozen=True)
class Grid:
    """Rows of one side whose log-probs lie on a row of GRIDS."""

    name: str
    share: float
    """Of these rows' values."""
    tokens: NDArray[np.bool_]
    """[T] the tokens of these rows."""
    extent: str
    """Which rows, for people; empty where it is all of them."""


def grid_of(logp: Float64, rows: Rows) -> Grid | None:
    """The first grid that log-probs of some rows lie on; whole numbers lie on all and do not count.

    Args:
        logp: [T], NaN where nothing was sampled.
        rows: the sequences.
    """
    row_of = rows.row_ids()
    told = np.isfinite(logp) & (logp != np.round(logp))
    count = np.bincount(row_of[told], minlength=rows.n_rows)
    for name in GRIDS:
        rounded = on_grid(name, logp, rows).astype(np.float32)
        off = np.where(told, np.float64(logp.astype(np.float32) != rounded), np.nan)
        gridded = (mean_by_row(off, row_of) <= 1 - ON_GRID) & (count >= FEWEST_IN_ROW)
        if gridded.any():
            tokens = gridded[row_of]
            share = 1 - float(np.nanmean(off[tokens]))
            every = bool((gridded | (count < FEWEST_IN_ROW)).all())
            some = "" if every else f" in {int(gridded.sum())} of {rows.n_rows} rows"
            return Grid(name, share, tokens | every, some)
    return None


def on_grid(grid: str, logp: Float64, rows: Rows) -> Float64:
    """Log-probs rounded to a row of GRIDS."""
    name, number = GRIDS[grid]
    return TOKEN_CHANGES[name](logp, rows, number)


def coarseness(grid: Grid | None, sound: Float64, rows: Rows) -> float:
    """The most that rounding moves a value, in nats."""
    if grid is None:
        return 0.0
    return float(np.nanmax(np.abs(on_grid(grid.name, sound, rows) - sound)))


def mean_by_row(errors: Float64, row_of: Int64) -> Float64:
    """[R] mean over the finite errors of each row; NaN for a row without."""
    finite = np.isfinite(errors)
    count = np.bincount(row_of[finite], minlength=int(row_of[-1]) + 1)
    total = np.bincount(row_of[finite], errors[finite], minlength=len(count))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
