"""Log-probs on the grid of a coarse format: rounded, or written with few decimals. Exact, whatever
else is wrong; of all values of a side, or of some rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.attribution.candidates import build_cause
from mismatch_lab.attribution.changes import TOKEN_CHANGES, Float64
from mismatch_lab.attribution.hypotheses import Hypothesis, TokenChange
from mismatch_lab.attribution.suspects import SIDE, Suspect
from mismatch_lab.attribution.thresholds import CONFIDENCE, THRESHOLDS
from mismatch_lab.captures.capture import Int64, Rows
from mismatch_lab.measures.grids import on_grid_share
from mismatch_lab.schema import Cause, Confirmation, Observation

FORMATS = (
    ("log-probs written with few decimals", TokenChange("decimals", 1.0)),
    ("log-probs written with few decimals", TokenChange("decimals", 2.0)),
    ("log-probs written with few decimals", TokenChange("decimals", 3.0)),
    ("log-probs written with few decimals", TokenChange("decimals", 4.0)),
    ("log-probs sent as bfloat16", TokenChange("through_bfloat16")),
    ("log-probs sent as float16", TokenChange("through_float16")),
)
"""The coarsest first: what lies on its grid may lie on finer ones too."""


@dataclass(frozen=True)
class ValueGrid:
    """The format that values come in."""

    hypothesis: Hypothesis
    share: float
    n: int


def value_grid(observed: Float64, rows: Rows) -> ValueGrid | None:
    """The coarsest format that holds nearly all of a suspect's sampled log-probs, if one does.

    Args:
        observed: [T] log-probs.
        rows: of the run.
    """
    values = observed[rows.sampled]
    values = values[np.isfinite(values) & (values != 0)]
    if (
        len(values) < THRESHOLDS.on_grid_values
        or len(np.unique(values)) < THRESHOLDS.on_grid_values // 2
    ):
        return None
    for label, change in FORMATS:
        rounded = TOKEN_CHANGES[change.name](values, rows, change.value)
        share = on_grid_share(values.astype(np.float32), rounded.astype(np.float32))
        if share >= THRESHOLDS.on_grid_share:
            hypothesis = Hypothesis("logprob-precision", label, tokens=(change,))
            return ValueGrid(hypothesis, share, len(values))
    return None


def rounded_expected(suspect: Suspect, grid: ValueGrid, rows: Rows) -> Suspect:
    """The suspect held against the expected log-probs in that format."""
    expected = suspect.expected
    for change in grid.hypothesis.tokens:
        expected = TOKEN_CHANGES[change.name](expected, rows, change.value)
    error = np.abs(suspect.observed - expected)[rows.sampled]
    return replace(suspect, expected=expected, error_nats=float(np.nanmean(error)))


def cause_of_grid(suspect: Suspect, grid: ValueGrid, left_nats: float) -> Cause:
    """Log-probs that come in a coarse format."""
    evidence = [
        Observation(
            observation=f"share of {grid.n} log-probs that this format holds exactly: "
            f"{grid.hypothesis.label}",
            value=grid.share,
            expected="near 0 for float32 values",
        )
    ]
    confirmation = Confirmation(
        experiment="the sound log-probs rounded so, against the suspect, mean |delta| in nats",
        before=suspect.error_nats,
        after=left_nats,
        by="record",
    )
    why = f"Every value is one that this format can hold: {grid.hypothesis.label}."
    side = SIDE[suspect.name]
    return build_cause(
        "logprob-precision", side, CONFIDENCE.value_grid, why, evidence, [confirmation]
    )


GRIDS: dict[str, tuple[str, float]] = {
    "of bfloat16": ("through_bfloat16", 0),
    "of float16": ("through_float16", 0),
    **{f"of {digits} decimals": ("decimals", digits) for digits in (1, 2, 3, 4)},
}
"""name -> row of TOKEN_CHANGES and its number."""


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
        gridded = (mean_by_row(off, row_of) <= 1 - THRESHOLDS.row_on_grid_share) & (
            count >= THRESHOLDS.row_on_grid_values
        )
        if gridded.any():
            tokens = gridded[row_of]
            share = 1 - float(np.nanmean(off[tokens]))
            every = bool((gridded | (count < THRESHOLDS.row_on_grid_values)).all())
            some = "" if every else f" in {int(gridded.sum())} of {rows.n_rows} rows"
            return Grid(name, share, tokens | every, some)
    return None


def on_grid(grid: str, logp: Float64, rows: Rows) -> Float64:
    """Log-probs rounded to a row of GRIDS."""
    name, number = GRIDS[grid]
    return TOKEN_CHANGES[name](logp, rows, number)


def coarseness(grid: Grid | None, expected: Float64, rows: Rows) -> float:
    """The most that rounding moves a value, in nats."""
    if grid is None:
        return 0.0
    return float(np.nanmax(np.abs(on_grid(grid.name, expected, rows) - expected)))


def mean_by_row(errors: Float64, row_of: Int64) -> Float64:
    """[R] mean over the finite errors of each row; NaN for a row without."""
    finite = np.isfinite(errors)
    count = np.bincount(row_of[finite], minlength=int(row_of[-1]) + 1)
    total = np.bincount(row_of[finite], errors[finite], minlength=len(count))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
