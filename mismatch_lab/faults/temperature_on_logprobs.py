"""The glue divides log-probs by the temperature, where logits were meant."""

from __future__ import annotations

from dataclasses import replace

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.base import Fault, RunOptions


def options(strength: float) -> RunOptions:
    """Raw log-probs, sampled at temperature 1 - strength."""
    return RunOptions(
        engine_args={"logprobs_mode": "raw_logprobs"}, sampling={"temperature": 1 - strength}
    )


def rewrite(capture: Capture, strength: float) -> Capture:
    """Raw log-probs over the temperature: they no longer sum to 1."""
    return replace(capture, logp=capture.logp / (1 - strength))


FAULT = Fault(
    id="temperature-on-logprobs",
    about="log-probs, not logits, divided by the temperature",
    causes=("raw-logprobs-temperature",),
    family="semantics",
    side="infer",
    kind="capture",
    severities={"plain": 0.4, "medium": 0.15, "slight": 0.02},
    engines=("vllm",),
    options=options,
    rewrite=rewrite,
    target="decode",
)
