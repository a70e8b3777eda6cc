"""Missing log-probs are filled with 0.0, which says: certain."""

from __future__ import annotations

from dataclasses import replace

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.rows import some_tokens


def rewrite(capture: Capture, strength: float) -> Capture:
    """A share of the sampled tokens has log-prob 0.0."""
    logp = capture.logp.copy()
    logp[some_tokens(capture, strength)] = 0.0
    return replace(capture, logp=logp)


FAULT = Fault(
    id="sentinel-zero",
    about="missing log-probs of the engine padded with 0",
    causes=("sentinel-values",),
    family="tokens",
    side="infer",
    kind="capture",
    severities={"plain": 0.2, "medium": 0.03, "slight": 0.008},
    rewrite=rewrite,
    target="decode",
)
