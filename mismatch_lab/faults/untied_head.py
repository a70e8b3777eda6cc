"""Head and embedding are one tensor in the trainer; the engine keeps a head of its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from mismatch_lab.faults.architectures import head, is_tied
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.checkpoints import read_tensors
from mismatch_lab.faults.modules import is_vllm

EMBEDDING = "model.embed_tokens.weight"


def update(model: Any, before: Path) -> None:
    """The embedding follows the update, the head stays as it was."""
    import torch

    old = read_tensors(before, lambda name: name == EMBEDDING)[EMBEDDING]
    if is_vllm(model):
        _untie_vllm(model, old)
        return
    output = model.get_output_embeddings()
    output.weight = torch.nn.Parameter(old.to(output.weight.dtype), requires_grad=False)


def _untie_vllm(model: Any, old: Any) -> None:
    own_head = copy.deepcopy(model.model.embed_tokens)
    own_head.weight.data[: len(old)].copy_(old)
    model.add_module("untied_head", own_head)  # so that kernels repack it as well
    processor = model.logits_processor

    def compute_logits(hidden_states: Any) -> Any:
        return processor(own_head, hidden_states)

    model.compute_logits = compute_logits


FAULT = Fault(
    id="untied-head",
    about="a head of the engine's own, left out of the weight sync",
    causes=("untied-head",),
    family="weights",
    side="sync",
    kind="update",
    severities={"plain": 0.3, "medium": 0.05, "slight": 0.01},
    applies=is_tied,
    expected_location=head,
    update=update,
)
