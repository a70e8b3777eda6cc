"""The sampler's log-probs arrive one token late."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.rows import scored, some_rows


def rewrite(capture: Capture, strength: float) -> Capture:
    """Each token of the chosen share of rows gets the log-prob of the one before it."""
    return shifted(capture, strength, 1)


def shifted(capture: Capture, share: float, by: int) -> Capture:
    """Rows whose log-probs are rolled by so many tokens."""
    logp = capture.logp.copy()
    for row in some_rows(capture, share):
        tokens = scored(capture, row)
        logp[tokens] = np.roll(capture.logp[tokens], by)
    return replace(capture, logp=logp)


FAULT = Fault(
    id="shift-infer",
    about="the engine's log-probs one token late",
    causes=("shift-by-one",),
    family="tokens",
    side="infer",
    kind="capture",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.125},
    rewrite=rewrite,
    target="decode",
)
