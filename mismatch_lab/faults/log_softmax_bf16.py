"""The trainer's log-softmax stays in the model's bf16."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.rows import some_rows
from mismatch_lab.faults.transport_bf16 import narrowed


def rewrite(capture: Capture, strength: float) -> Capture:
    """In a share of the rows log-probs, of whole distributions too, are on the grid of bf16."""
    rows = capture.rows.row_ids()
    chosen = np.isin(np.arange(capture.rows.n_rows), some_rows(capture, strength))[rows]
    logp = np.where(chosen, narrowed(capture.logp, "bfloat16"), capture.logp)
    probes = capture.probe_logp
    if probes is not None:
        at = chosen[capture.probe_positions, None]
        probes = np.where(at, narrowed(probes, "bfloat16"), probes)
    return replace(capture, logp=logp, probe_logp=probes)


FAULT = Fault(
    id="log-softmax-bf16",
    about="log-softmax of the trainer in bf16",
    causes=("logprob-precision",),
    family="precision",
    side="train",
    kind="capture",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
    rewrite=rewrite,
    target="train",
)
