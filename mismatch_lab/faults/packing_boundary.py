"""Labels rolled across packed sequences: each one's last token gets its neighbour's first."""

from __future__ import annotations

from dataclasses import replace

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.rows import scored, some_rows


def rewrite(capture: Capture, strength: float) -> Capture:
    """In a share of rows the last token carries the log-prob of the next row's first one."""
    logp = capture.logp.copy()
    for row in some_rows(capture, strength):
        neighbour = scored(capture, (row + 1) % capture.rows.n_rows)
        logp[scored(capture, row)[-1]] = capture.logp[neighbour[0]]
    return replace(capture, logp=logp)


FAULT = Fault(
    id="packing-boundary",
    about="the last token of each packed sequence scored with its neighbour's",
    causes=("packing-boundary",),
    family="tokens",
    side="train",
    kind="capture",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.125},
    rewrite=rewrite,
    target="train",
)
