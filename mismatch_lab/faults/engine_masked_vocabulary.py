"""A server says -inf for a drawn token that is not among the likeliest it returns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.rows import scored


def rewrite(capture: Capture, strength: float) -> Capture:
    """The least probable share of the sampled tokens is -inf."""
    tokens = np.concatenate([scored(capture, row) for row in range(capture.rows.n_rows)])
    count = max(1, round(strength * len(tokens)))
    logp = capture.logp.copy()
    logp[tokens[np.argsort(capture.logp[tokens], kind="stable")[:count]]] = -np.inf
    return replace(capture, logp=logp)


FAULT = Fault(
    id="engine-masked-vocabulary",
    about="improbable tokens of the engine reported as -inf",
    causes=("impossible-token",),
    family="semantics",
    side="infer",
    kind="capture",
    severities={"plain": 0.05, "medium": 0.01, "slight": 0.001},
    rewrite=rewrite,
    target="decode",
)
