"""The engine's glue takes log-probs in the order in which requests end, not in that of the rows."""

from __future__ import annotations

from dataclasses import replace

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED
from mismatch_lab.faults.rows import scored, some_rows


def rewrite(capture: Capture, strength: float) -> Capture:
    """`strength` of the rows, two by two, hold each other's values as far as these go."""
    logp = capture.logp.copy()
    rows = some_rows(capture, max(strength, 2 / capture.rows.n_rows))
    for one, other in zip(rows[::2], rows[1::2], strict=False):
        mine, theirs = scored(capture, one), scored(capture, other)
        both = min(len(mine), len(theirs))
        logp[mine[:both]] = capture.logp[theirs[:both]]
        logp[theirs[:both]] = capture.logp[mine[:both]]
    return replace(capture, logp=logp)


FAULT = Fault(
    id="rows-exchanged",
    about="log-probs of some answers of the engine paired with other answers",
    causes=(UNLISTED,),
    family="tokens",
    side="infer",
    kind="capture",
    severities={"plain": 1.0, "medium": 0.25, "slight": 0.05},
    rewrite=rewrite,
    target="decode",
)
