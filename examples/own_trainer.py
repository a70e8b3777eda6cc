"""A trainer of your own for `mismatch-lab diagnose --trainer examples/own_trainer.py:load`.

It stands for whatever computes log-probs in your loop: replace `load` by your model's loading and
`score` by your forward and loss kernels. Here it is transformers, a sequence at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]


def load(
    model: str, dtype: str, attention: str = "eager", drop_sinks: bool = False
) -> Callable[[Int64, Int64, Int64, float], Float32]:
    """The checkpoint, and how it scores.

    Args:
        model: checkpoint folder.
        dtype: name of torch's type.
        attention: transformers' attention implementation.
        drop_sinks: a defect to try it with: attention sinks take no weight.
    """
    policy = AutoModelForCausalLM.from_pretrained(
        model, dtype=getattr(torch, dtype), attn_implementation=attention
    ).eval()
    if drop_sinks:
        for layer in policy.model.layers:
            layer.self_attn.sinks.data.fill_(-1e4)

    @torch.no_grad()
    def score(ids: Int64, positions: Int64, documents: Int64, temperature: float) -> Float32:
        logp = np.zeros(len(ids), np.float32)
        for document in np.unique(documents):
            at = np.flatnonzero(documents == document)
            row = torch.from_numpy(ids[at])[None]
            logits = policy(row, position_ids=torch.from_numpy(positions[at])[None]).logits[0, :-1]
            of_all = torch.log_softmax(logits.float() / temperature, dim=-1)
            logp[at[1:]] = of_all[torch.arange(len(at) - 1), row[0, 1:]].numpy()
        return logp

    score.module = policy  # type: ignore[attr-defined]
    return score
