"""The trainer's log-softmax over a sharded vocabulary misses one rank's sum of exponentials."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.sharded_logits import counted_only

RANK = 1
"""Whose sum is lost."""


def plant(model: Any, strength: float) -> None:
    """Of `strength` shards, the second is not in the normaliser."""
    import torch

    def lose(_module: Any, _args: Any, output: Any) -> Any:
        logits = output.logits
        width = -(-logits.shape[-1] // int(strength))
        counted = torch.arange(logits.shape[-1], device=logits.device) // width != RANK
        output["logits"] = counted_only(logits, counted)
        return output

    model.register_forward_hook(lose)


FAULT = Fault(
    id="lost-shard",
    about="one tensor-parallel rank's vocabulary shard missing from the trainer's log-sum-exp",
    causes=("partial-normaliser",),
    family="semantics",
    side="train",
    kind="plugin",
    severities={"plain": 2, "medium": 4, "slight": 8},
    plant=plant,
)
