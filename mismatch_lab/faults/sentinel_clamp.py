"""A server that has no log-prob for a token says -9999."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.rows import scored

MISSING = -9999.0


def rewrite(capture: Capture, strength: float) -> Capture:
    """The least probable share of the sampled tokens is -9999: outside the returned top-k."""
    tokens = np.concatenate([scored(capture, row) for row in range(capture.rows.n_rows)])
    count = max(1, round(strength * len(tokens)))
    logp = capture.logp.copy()
    logp[tokens[np.argsort(capture.logp[tokens], kind="stable")[:count]]] = MISSING
    return replace(capture, logp=logp)


FAULT = Fault(
    id="sentinel-clamp",
    about="improbable tokens of the engine reported as -9999",
    causes=("sentinel-values",),
    family="tokens",
    side="infer",
    kind="capture",
    severities={"plain": 0.02, "medium": 0.005, "slight": 0.001},
    rewrite=rewrite,
    target="decode",
)
