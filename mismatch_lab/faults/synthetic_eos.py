"""The glue appends an end-of-sequence token itself and gives it log-prob 0."""

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
    id="synthetic-eos",
    about="synthetic end-of-sequence tokens with log-prob 0 from the sampler",
    causes=("terminal-token",),
    family="tokens",
    side="infer",
    kind="capture",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
    options=options,
    rewrite=rewrite,
    target="decode",
)
