"""The engine renormalises over the nucleus, the trainer over the whole vocabulary."""

from __future__ import annotations

from mismatch_lab.faults.base import Fault, RunOptions


def options(strength: float) -> RunOptions:
    """A nucleus of 1 - strength."""
    return RunOptions(sampling={"top_p": 1 - strength})


FAULT = Fault(
    id="top-p",
    about="sampled from a nucleus whose log-probs are renormalised",
    causes=("sampler-truncation",),
    family="semantics",
    side="infer",
    kind="options",
    severities={"plain": 0.2, "medium": 0.05, "slight": 0.01},
    options=options,
)
