"""How well an explanation accounts for what a suspect says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mismatch_lab.attribution.hypotheses import Explanation
from mismatch_lab.attribution.simulate import Prediction
from mismatch_lab.attribution.token_changes import Float64

PERSISTENT = 1e-12
"""nats; below this nothing is left to explain."""


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

    @property
    def explained(self) -> float:
        """Share of the suspect's error that is gone; negative if the explanation adds to it."""
        return 1.0 - self.residual_nats / max(self.sound_nats, PERSISTENT)


def fit(
    explanation: Explanation, prediction: Prediction, sound: Float64, observed: Float64
) -> Fit | None:
    """Compare where all three are finite; None where that is nowhere.

    Args:
        sound: [T] log-probs of the sound program, by flat index.
        observed: [T] the suspect's.
    """
    flat = prediction.flat
    finite = np.isfinite(prediction.logp) & np.isfinite(sound[flat]) & np.isfinite(observed[flat])
    if not finite.any():
        return None
    flat, predicted = flat[finite], prediction.logp[finite]
    seen, expected = observed[flat] - sound[flat], predicted - sound[flat]
    product, size = float(seen @ expected), float(expected @ expected)
    total = float(seen @ seen)
    return Fit(
        explanation,
        len(flat),
        float(np.mean(np.abs(seen))),
        float(np.mean(np.abs(observed[flat] - predicted))),
        product / size if size > 0 else 0.0,
        product**2 / (size * total) if size > 0 and total > 0 else 0.0,
    )
