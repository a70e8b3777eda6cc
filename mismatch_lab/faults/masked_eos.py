"""The padding token is the end-of-sequence token, so the trainer masks the real one away."""

from __future__ import annotations

from dataclasses import replace

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.base import Fault, RunOptions
from mismatch_lab.faults.rows import scored, some_rows


def rewrite(capture: Capture, strength: float) -> Capture:
    """Log-prob 0.0 at the last sampled token of a share of rows."""
    logp = capture.logp.copy()
    for row in some_rows(capture, strength):
        logp[scored(capture, row)[-1:]] = 0.0
    return replace(capture, logp=logp)


def options(strength: float) -> RunOptions:
    """Answers cut short: a model is certain of an end of its own, and certain is log-prob 0."""
    del strength
    return RunOptions(sampling={"max_tokens": 16})


FAULT = Fault(
    id="masked-eos",
    about="end-of-sequence tokens masked to log-prob 0 in the trainer",
    causes=("terminal-token",),
    family="tokens",
    side="train",
    kind="capture",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
    options=options,
    rewrite=rewrite,
    target="train",
)
