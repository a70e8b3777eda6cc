"""The engine's glue joins streamed chunks and repeats the last log-prob of each."""

from __future__ import annotations

from dataclasses import replace

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED
from mismatch_lab.faults.rows import scored


def rewrite(capture: Capture, strength: float) -> Capture:
    """The first token of every chunk of `strength` has the log-prob of the token before it."""
    logp = capture.logp.copy()
    for row in range(capture.rows.n_rows):
        tokens = scored(capture, row)
        starts = tokens[int(strength) :: int(strength)]
        logp[starts] = capture.logp[starts - 1]
    return replace(capture, logp=logp)


FAULT = Fault(
    id="chunk-boundary",
    about="log-probs of the first token of each streamed chunk repeated",
    causes=(UNLISTED, "shift-by-one"),
    why_several="those tokens alone are shifted",
    family="tokens",
    side="infer",
    kind="capture",
    severities={"plain": 8, "medium": 16, "slight": 32},
    rewrite=rewrite,
    target="decode",
)
