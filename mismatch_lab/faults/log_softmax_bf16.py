"""The trainer's log-softmax stays in the model's bf16."""

from __future__ import annotations

from dataclasses import replace

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.transport_bf16 import narrowed


def rewrite(capture: Capture, strength: str) -> Capture:
    """Log-probs, of whole distributions too, on the grid of the dtype."""
    probes = capture.probe_logp
    return replace(
        capture,
        logp=narrowed(capture.logp, strength),
        probe_logp=None if probes is None else narrowed(probes, strength),
    )


FAULT = Fault(
    id="log-softmax-bf16",
    about="log-softmax of the trainer in bf16",
    causes=("logprob-precision",),
    family="precision",
    side="train",
    kind="capture",
    severities={"plain": "bfloat16", "medium": "decimals", "slight": "float16"},
    rewrite=rewrite,
    target="train",
)
