"""How well an explanation accounts for what a suspect says, its free number set to the best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.attribution.changes import Float64
from mismatch_lab.attribution.hypotheses import Explanation, Hypothesis
from mismatch_lab.attribution.simulate import Prediction
from mismatch_lab.attribution.thresholds import THRESHOLDS
from mismatch_lab.captures.capture import Int64


@dataclass(frozen=True)
class Unseen:
    """An explanation on rows that the search never looked at; differences in nats."""

    rows: int
    before_nats: float
    """mean |suspect - sound program|."""
    residual_nats: float
    """mean |suspect - prediction|, at the size that was found on the other rows."""


@dataclass(frozen=True)
class Fit:
    """An explanation against the suspect, over N tokens; differences in nats."""

    explanation: Explanation
    n: int
    before_nats: float
    """mean |suspect - sound program| on these tokens."""
    residual_nats: float
    """mean |suspect - prediction|."""
    slope: float
    """Least-squares coefficient of the predicted change in the observed one: 1 if it is there at
    the size that was predicted, 0 if it is not there."""
    shared: float
    """Squared correlation (through the origin) of predicted and observed change."""
    extent: str = ""
    """Where the change is there in part only: at what size, or in which share of rows."""
    size: float = 1.0
    """Of the change, over the predicted one."""
    effect_nats: float = 0.0
    """mean |predicted change|."""
    unseen: Unseen | None = None
    """The same on rows that it was not found on; None where there are none."""

    @property
    def explained(self) -> float:
        """Share of the suspect's error that is gone; negative if the explanation adds to it."""
        if self.before_nats <= THRESHOLDS.nothing_left_nats:
            return 0.0
        return 1.0 - self.residual_nats / self.before_nats

    @property
    def fitted(self) -> int:
        """Numbers that were fitted to the data."""
        return sum(h.fitted for h in self.explanation) + bool(self.extent)


def fit(
    explanation: Explanation,
    prediction: Prediction,
    expected: Float64,
    observed: Float64,
    row_of: Int64,
    noise_nats: float,
) -> Fit | None:
    """Compare where all three are finite; None where that is nowhere.

    Args:
        explanation: what the prediction is of.
        prediction: log-probs of some tokens under it.
        expected: [T] log-probs of the sound program, by flat index.
        observed: [T] the suspect's.
        row_of: [T] the row of each token.
        noise_nats: error of a sound program.
    """
    flat = prediction.flat
    finite = (
        np.isfinite(prediction.logp) & np.isfinite(expected[flat]) & np.isfinite(observed[flat])
    )
    if not finite.any():
        return None
    flat, predicted = flat[finite], prediction.logp[finite]
    seen, change = observed[flat] - expected[flat], predicted - expected[flat]
    product, size = float(seen @ change), float(change @ change)
    total = float(seen @ seen)
    whole = Fit(
        explanation,
        len(flat),
        float(np.mean(np.abs(seen))),
        float(np.mean(np.abs(seen - change))),
        product / size if size > 0 else 0.0,
        product**2 / (size * total) if size > 0 and total > 0 else 0.0,
        effect_nats=float(np.mean(np.abs(change))),
    )
    if len(explanation) == 1 and explanation[0].replaces:
        return _in_some_tokens(whole, seen, change, noise_nats)
    # Of several changes together, none can be told to be weaker; and the number of a change to
    # distributions is its size: with a second one every top-k would explain every other.
    sized = len(explanation) > 1 or any(h.rows and h.search is not None for h in explanation)
    variants = [] if sized else [_at_size(whole, seen, change)]
    if any(h.tokens for h in explanation):
        variants.append(_in_some_rows(whole, seen, change, row_of[flat], noise_nats))
    better = [v for v in variants if v is not None]
    return min(better, key=lambda v: v.residual_nats, default=whole)


def on_unseen_rows(
    found: Fit,
    prediction: Prediction,
    expected: Float64,
    observed: Float64,
    row_of: Int64,
    first_row: int,
) -> Unseen | None:
    """What an explanation comes to on the rows from `first_row` on, nothing fitted to them.

    None where there are no such rows, or where the explanation is of rows that their error picked.

    Args:
        found: on the rows before.
        prediction: of all rows.
        expected: [T] log-probs of the sound program.
        observed: [T] the suspect's.
        row_of: [T] the row of each token.
        first_row: that the search did not look at.
    """
    flat = prediction.flat
    kept = (row_of[flat] >= first_row) & np.isfinite(
        prediction.logp + expected[flat] + observed[flat]
    )
    if not kept.any() or (found.extent and found.size == 1.0):
        return None
    flat, predicted = flat[kept], prediction.logp[kept]
    seen, change = observed[flat] - expected[flat], predicted - expected[flat]
    return Unseen(
        len(np.unique(row_of[flat])),
        float(np.mean(np.abs(seen))),
        float(np.mean(np.abs(seen - found.size * change))),
    )


def _at_size(whole: Fit, seen: Float64, change: Float64) -> Fit | None:
    """The same change, weaker than predicted: a defect of part of the computation."""
    if not (
        0 < whole.slope < THRESHOLDS.weaker_slope and whole.shared >= THRESHOLDS.same_shape_shared
    ):
        return None
    left = float(np.mean(np.abs(seen - whole.slope * change)))
    if left >= whole.residual_nats:
        return None
    extent = f"at {whole.slope:.2g} of its size"
    return replace(whole, residual_nats=left, extent=extent, size=whole.slope)


def _in_some_tokens(whole: Fit, seen: Float64, change: Float64, noise_nats: float) -> Fit:
    """The very change in those tokens that carry it, to within noise, and nothing in the others: a
    number that was put in another's place is there or it is not, however the two go together.
    """
    limit = THRESHOLDS.wrong_token * noise_nats
    moved = np.abs(change) > limit
    carried = moved & (np.abs(seen - change) <= limit)
    if carried.sum() == moved.sum():
        return whole
    extent = f"in {int(carried.sum())} of {int(moved.sum())} tokens"
    shared = float(seen[carried] @ seen[carried]) / max(float(seen @ seen), 1e-300)
    return replace(_only_in(whole, carried, seen, change, extent), shared=shared)


def _in_some_rows(
    whole: Fit, seen: Float64, change: Float64, rows: Int64, noise_nats: float
) -> Fit | None:
    """The same change in those rows only that differ at all."""
    numbers, index = np.unique(rows, return_inverse=True)
    error = np.bincount(index, np.abs(seen)) / np.bincount(index)
    wrong = (error > noise_nats)[index]
    if wrong.all() or not wrong.any():
        return None
    extent = f"in {int((error > noise_nats).sum())} of {len(numbers)} rows"
    found = _only_in(whole, wrong, seen, change, extent)
    if found.residual_nats > THRESHOLDS.further_number_share * whole.residual_nats:
        return None
    return found


def _only_in(
    whole: Fit, tokens: NDArray[np.bool_], seen: Float64, change: Float64, extent: str
) -> Fit:
    """The same change in these tokens alone."""
    inside = change[tokens]
    size = float(inside @ inside)
    return replace(
        whole,
        residual_nats=float(np.mean(np.abs(np.where(tokens, seen - change, seen)))),
        slope=float(seen[tokens] @ inside) / size if size else 0.0,
        extent=extent,
    )


Judge = Callable[[Explanation], Fit | None]


GOLDEN = (math.sqrt(5) - 1) / 2


def tuned(judge: Judge, before: Explanation, hypothesis: Hypothesis) -> Fit | None:
    """The best fit of `before` and the hypothesis over its free number; None if inapplicable."""
    search = hypothesis.search
    if search is None:
        return judge((*before, hypothesis))
    found: dict[float, Fit] = {}

    def at(value: float) -> float:
        if value not in found:
            result = judge((*before, hypothesis.at(value)))
            if result is None:
                return math.inf
            found[value] = result
        return found[value].residual_nats

    for value in search.grid:
        at(value)
    if not found:
        return None
    best = min(found, key=at)
    hopeful = max(found[best].explained, found[best].shared) >= THRESHOLDS.worth_refining
    if search.refine != "no" and hopeful:
        low, high = _bracket(sorted(found), best)
        if search.refine == "integer":
            _integers(at, round(low), round(high))
        else:
            _golden(at, low, high, logarithmic=search.refine == "log")
            _secant(at, found, positive=search.refine == "log")
        best = min(found, key=at)
    return found[best]


def _bracket(values: list[float], best: float) -> tuple[float, float]:
    at = values.index(best)
    return values[max(at - 1, 0)], values[min(at + 1, len(values) - 1)]


def _golden(at: Callable[[float], float], low: float, high: float, *, logarithmic: bool) -> None:
    """Golden-section search for a minimum between two values."""
    if logarithmic:
        _golden(lambda x: at(math.exp(x)), math.log(low), math.log(high), logarithmic=False)
        return
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    for _ in range(THRESHOLDS.golden_steps):
        if at(left) < at(right):
            high, right = right, left
            left = high - GOLDEN * (high - low)
        else:
            low, left = left, right
            right = low + GOLDEN * (high - low)


def _secant(at: Callable[[float], float], found: dict[float, Fit], *, positive: bool) -> None:
    """Go to where the predicted change is there at the size predicted: slope 1."""
    for _ in range(THRESHOLDS.secant_steps if len(found) > 1 else 0):
        best, second = sorted(found, key=at)[:2]
        rise = found[second].slope - found[best].slope
        if rise == 0 or found[best].slope == 1:
            return
        value = best + (1 - found[best].slope) * (second - best) / rise
        if not math.isfinite(value) or (positive and value <= 0) or value in found:
            return
        before = at(best)
        if at(value) >= before:
            return


def _integers(at: Callable[[float], float], low: int, high: int) -> None:
    """Ternary search between two whole numbers."""
    while high - low > 2:
        third = (high - low) // 3 or 1
        if at(low + third) < at(high - third):
            high -= third
        else:
            low += third
    for value in range(low, high + 1):
        at(float(value))
