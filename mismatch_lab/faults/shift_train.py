"""The trainer pairs logits with the token they were computed after, not with the next one."""

from __future__ import annotations

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.shift_infer import shifted


def rewrite(capture: Capture, strength: float) -> Capture:
    """Each token of the chosen share of rows gets the log-prob of the one after it."""
    return shifted(capture, strength, -1)


FAULT = Fault(
    id="shift-train",
    about="the trainer's log-probs one token early",
    causes=("shift-by-one",),
    family="tokens",
    side="train",
    kind="capture",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.125},
    rewrite=rewrite,
    target="train",
)
