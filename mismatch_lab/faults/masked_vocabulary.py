"""Sampled tokens with probability 0: entries that the trainer masks, or a server that says -inf for
a drawn token which is not among the likeliest that it returns.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.rows import scored


def plant(model: Any, strength: float) -> None:
    """Every `strength`-th entry is masked, as by a list of allowed tokens that lacks some."""
    import torch

    def mask(_module: Any, _args: Any, output: Any) -> Any:
        logits = output.logits
        ids = torch.arange(logits.shape[-1], device=logits.device)
        output["logits"] = logits.masked_fill(ids % int(strength) == 1, -torch.inf)
        return output

    model.register_forward_hook(mask)


FAULT = Fault(
    id="masked-vocabulary",
    about="entries of the vocabulary that the sampler can draw masked in the trainer",
    causes=("impossible-token",),
    family="semantics",
    side="train",
    kind="plugin",
    severities={"plain": 7, "medium": 29, "slight": 61},
    plant=plant,
)


def rewrite(capture: Capture, strength: float) -> Capture:
    """The least probable share of the sampled tokens is -inf."""
    tokens = np.concatenate([scored(capture, row) for row in range(capture.rows.n_rows)])
    count = max(1, round(strength * len(tokens)))
    logp = capture.logp.copy()
    logp[tokens[np.argsort(capture.logp[tokens], kind="stable")[:count]]] = -np.inf
    return replace(capture, logp=logp)


ENGINE_FAULT = Fault(
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
