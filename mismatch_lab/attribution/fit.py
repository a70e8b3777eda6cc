"""How well an explanation accounts for what a suspect says."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mismatch_lab.attribution.hypotheses import Explanation
from mismatch_lab.attribution.simulate import Prediction
from mismatch_lab.attribution.token_changes import Float64
from mismatch_lab.captures.capture import Int64

PERSISTENT = 1e-12
"""nats; below this nothing is left to explain."""

SAME_SHAPE = 0.4
"""Squared correlation from which on a change is taken for the predicted one at another size: in
some heads, or for some tokens."""

CLEARLY_LESS = 0.9
"""Slope below which a change is weaker than predicted; nearer to 1 it is noise."""

WORTH_A_NUMBER = 0.6
"""A further fitted number must leave at most this share of the residual."""


@dataclass(frozen=True)
class Unseen:
    """An explanation on rows that the search never looked at; differences in nats."""

    rows: int
    sound_nats: float
    """mean |suspect - sound program|."""
    residual_nats: float
    """mean |suspect - prediction|, at the size that was found on the other rows."""


@dataclass(frozen=True)
class Fit:
    """An explanation against the suspect, over N tokens; differences in nats."""

    explanation: Explanation
    n: int
    sound_nats: float
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
        if self.sound_nats <= PERSISTENT:
            return 0.0
        return 1.0 - self.residual_nats / self.sound_nats

    @property
    def fitted(self) -> int:
        """Numbers that were fitted to the data."""
        return sum(h.fitted for h in self.explanation) + bool(self.extent)


def fit(
    explanation: Explanation,
    prediction: Prediction,
    sound: Float64,
    observed: Float64,
    row_of: Int64,
    noise_nats: float,
) -> Fit | None:
    """Compare where all three are finite; None where that is nowhere.

    Args:
        explanation: what the prediction is of.
        prediction: log-probs of some tokens under it.
        sound: [T] log-probs of the sound program, by flat index.
        observed: [T] the suspect's.
        row_of: [T] the row of each token.
        noise_nats: error of a sound program.
    """
    flat = prediction.flat
    finite = np.isfinite(prediction.logp) & np.isfinite(sound[flat]) & np.isfinite(observed[flat])
    if not finite.any():
        return None
    flat, predicted = flat[finite], prediction.logp[finite]
    seen, expected = observed[flat] - sound[flat], predicted - sound[flat]
    product, size = float(seen @ expected), float(expected @ expected)
    total = float(seen @ seen)
    whole = Fit(
        explanation,
        len(flat),
        float(np.mean(np.abs(seen))),
        float(np.mean(np.abs(seen - expected))),
        product / size if size > 0 else 0.0,
        product**2 / (size * total) if size > 0 and total > 0 else 0.0,
        effect_nats=float(np.mean(np.abs(expected))),
    )
    # Of several changes together, none can be told to be weaker; and the number of a change to
    # distributions is its size: with a second one every top-k would explain every other.
    sized = len(explanation) > 1 or any(h.rows and h.search is not None for h in explanation)
    variants = [] if sized else [_at_size(whole, seen, expected)]
    if any(h.tokens for h in explanation):
        variants.append(_in_some_rows(whole, seen, expected, row_of[flat], noise_nats))
    better = [v for v in variants if v is not None]
    return min(better, key=lambda v: v.residual_nats, default=whole)


def on_unseen_rows(
    found: Fit,
    prediction: Prediction,
    sound: Float64,
    observed: Float64,
    row_of: Int64,
    first_row: int,
) -> Unseen | None:
    """What an explanation comes to on the rows from `first_row` on, nothing fitted to them.

    None where there are no such rows, or where the explanation is of rows that their error picked.

    Args:
        found: on the rows before.
        prediction: of all rows.
        sound: [T] log-probs of the sound program.
        observed: [T] the suspect's.
        row_of: [T] the row of each token.
        first_row: that the search did not look at.
    """
    flat = prediction.flat
    kept = (row_of[flat] >= first_row) & np.isfinite(prediction.logp + sound[flat] + observed[flat])
    if not kept.any() or (found.extent and found.size == 1.0):
        return None
    flat, predicted = flat[kept], prediction.logp[kept]
    seen, expected = observed[flat] - sound[flat], predicted - sound[flat]
    return Unseen(
        len(np.unique(row_of[flat])),
        float(np.mean(np.abs(seen))),
        float(np.mean(np.abs(seen - found.size * expected))),
    )


def _at_size(whole: Fit, seen: Float64, expected: Float64) -> Fit | None:
    """The same change, weaker than predicted: a defect of part of the computation."""
    if not (0 < whole.slope < CLEARLY_LESS and whole.shared >= SAME_SHAPE):
        return None
    left = float(np.mean(np.abs(seen - whole.slope * expected)))
    if left >= whole.residual_nats:
        return None
    extent = f"at {whole.slope:.2g} of its size"
    return replace(whole, residual_nats=left, extent=extent, size=whole.slope)


def _in_some_rows(
    whole: Fit, seen: Float64, expected: Float64, rows: Int64, noise_nats: float
) -> Fit | None:
    """The same change in those rows only that differ at all."""
    numbers, index = np.unique(rows, return_inverse=True)
    error = np.bincount(index, np.abs(seen)) / np.bincount(index)
    wrong = (error > noise_nats)[index]
    if wrong.all() or not wrong.any():
        return None
    left = float(np.mean(np.abs(np.where(wrong, seen - expected, seen))))
    if left > WORTH_A_NUMBER * whole.residual_nats:
        return None
    affected = int((error > noise_nats).sum())
    inside = expected[wrong]
    size = float(inside @ inside)
    return replace(
        whole,
        residual_nats=left,
        slope=float(seen[wrong] @ inside) / size if size else 0.0,
        extent=f"in {affected} of {len(numbers)} rows",
    )
