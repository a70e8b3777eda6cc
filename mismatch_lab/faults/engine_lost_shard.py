"""The engine reports log-probs that one rank normalised over its own vocabulary shard."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.sharded_logits import counted_only


def plant(model: Any, strength: float) -> None:
    """`strength` shards, and only the first one's sum of exponentials."""
    import torch

    def lose(_module: Any, _args: Any, output: Any) -> Any:
        logits = output.logits
        width = -(-logits.shape[-1] // int(strength))
        counted = torch.arange(logits.shape[-1], device=logits.device) < width
        output["logits"] = counted_only(logits, counted)
        return output

    model.register_forward_hook(lose)


FAULT = Fault(
    id="engine-lost-shard",
    about="log-probs of the engine normalised over one rank's vocabulary shard alone",
    causes=("partial-normaliser",),
    family="semantics",
    side="infer",
    kind="plugin",
    engines=("hf",),
    severities={"plain": 8, "medium": 4, "slight": 2},
    plant=plant,
)
