"""How a run's error compares with an earlier run's of the same prompts, whatever their lengths.

Errors depend on where in an answer a token stands, so a run with longer answers has another mean
though nothing changed. Tokens are therefore compared position by position: of each range of
positions both runs' means enter with the same weight, the smaller of their numbers of tokens
(direct standardisation; Kitagawa 1955, JASA 50:1168-1194).

The interval is Student's on the log of the ratio, with the jackknife over pairs of rows (Tukey
1958): the prompt is left out of both runs in turn, so what its answers have in common cancels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mismatch_lab.measures.rows import AnyFloats, AnyInts, FloatArray, check_lengths, check_shapes
from mismatch_lab.measures.student import student_quantile

POSITION_STARTS = (0, 8, 32, 128, 512, 2048, 8192)
"""Where ranges of positions begin: fourfold, since errors change with the log of the position."""

MIN_ROWS = 4
"""A range of positions is compared where so many rows of both runs have tokens in it: fewer, and
leaving one out says nothing of the spread."""


@dataclass(frozen=True)
class PositionSums:
    """Of each row and range of positions, float64 [R, len(POSITION_STARTS)].

    Attributes:
        tokens: how many there are.
        values: the sum of what was measured on them, never negative.
    """

    tokens: FloatArray
    values: FloatArray


@dataclass(frozen=True)
class BaselineRatio:
    """A run's mean over an earlier run's.

    Attributes:
        ratio: NaN where nothing can be compared.
        low: lower end of its interval.
        high: upper end.
        shared: share of the run's tokens at positions that both runs have.
    """

    ratio: float
    low: float
    high: float
    shared: float


NOTHING = BaselineRatio(math.nan, math.nan, math.nan, 0.0)


def sum_by_position(
    values: AnyFloats, row_ids: AnyInts, positions: AnyInts, n_rows: int
) -> PositionSums:
    """Sums over the tokens of each row and range of positions.

    Args:
        values: float [N], not negative; those that are not finite are left out.
        row_ids: int [N], from 0 to `n_rows` - 1.
        positions: int [N], of each token within its answer, from 0.
        n_rows: how many rows there are, those without a token included.

    Raises:
        ValueError: lengths differ.
    """
    check_lengths(values=values, row_ids=row_ids, positions=positions)
    finite = np.isfinite(values)
    ranges = np.searchsorted(POSITION_STARTS, positions[finite], side="right") - 1
    cells = row_ids[finite] * len(POSITION_STARTS) + ranges
    shape = (n_rows, len(POSITION_STARTS))
    size = n_rows * len(POSITION_STARTS)
    tokens = np.bincount(cells, minlength=size).astype(np.float64)
    weights = values[finite].astype(np.float64)
    sums = np.bincount(cells, weights=weights, minlength=size).astype(np.float64)
    return PositionSums(tokens.reshape(shape), sums.reshape(shape))


def baseline_ratio(run: PositionSums, baseline: PositionSums, tail: float) -> BaselineRatio:
    """The run's mean over the baseline's.

    Args:
        run: row r answers the same prompt as row r of the baseline.
        baseline: likewise.
        tail: probability that is left out at each end of the interval.

    Raises:
        ValueError: the runs have different numbers of rows.
    """
    check_shapes(run=run.tokens, baseline=baseline.tokens)
    tokens = np.stack([run.tokens, baseline.tokens])
    values = np.stack([run.values, baseline.values])
    held = ((tokens > 0).sum(axis=1) >= MIN_ROWS).all(axis=0)
    tokens, values = tokens[..., held], values[..., held]
    weights = tokens.sum(axis=1).min(axis=0)
    shared = float(weights.sum() / max(run.tokens.sum(), 1.0))
    if not weights.size:
        return NOTHING
    means = _standardised(values.sum(axis=1), tokens.sum(axis=1), weights)
    left = _standardised(
        values.sum(axis=1, keepdims=True) - values,
        tokens.sum(axis=1, keepdims=True) - tokens,
        weights,
    )
    if not (means[1] > 0 and left[1].min() > 0):
        return BaselineRatio(math.nan, math.nan, math.nan, shared)
    ratio = float(means[0] / means[1])
    if not left[0].min() > 0:  # a log cannot tell how little nothing is
        return BaselineRatio(ratio, math.nan, math.nan, shared)
    logs = np.log(left[0] / left[1])
    n = len(logs)
    error = math.sqrt((n - 1) / n * float(((logs - logs.mean()) ** 2).sum()))
    half = student_quantile(n - 1, 1 - 2 * tail) * error
    return BaselineRatio(ratio, ratio * math.exp(-half), ratio * math.exp(half), shared)


def _standardised(values: FloatArray, tokens: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted mean over the last axis of the means `values / tokens`."""
    means: FloatArray = values / tokens @ weights / weights.sum()
    return means
