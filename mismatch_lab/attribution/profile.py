"""How an error depends on the position: what people look at first."""

from __future__ import annotations

import numpy as np

from mismatch_lab.attribution.suspects import Charge
from mismatch_lab.schema import Observation


def position_profile(charge: Charge) -> list[Observation]:
    """Sign and spread of a suspect's errors."""
    delta = charge.observed - charge.sound
    delta = delta[np.isfinite(delta)]
    if not len(delta):
        return []
    size = np.abs(delta)
    mean = float(size.mean())
    return [
        Observation(
            observation="share of tokens on which the suspect is the lower one",
            value=float(np.mean(delta < 0)),
            expected="0.5 for rounding",
        ),
        Observation(
            observation="share of the error carried by the worst tenth of tokens",
            value=float(np.sort(size)[-max(1, len(size) // 10) :].sum() / max(size.sum(), 1e-300)),
            expected="0.3 to 0.4 for rounding" if mean > 0 else "nothing to share",
        ),
    ]
