"""Padded vocabulary rows count in the trainer's normaliser (a fused kernel's zero rows)."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault


def plant(model: Any, strength: float) -> None:
    """`strength` more logits, all zero."""
    from torch.nn import functional

    def pad(_module: Any, _args: Any, output: Any) -> Any:
        output["logits"] = functional.pad(output.logits, (0, int(strength)))
        return output

    model.register_forward_hook(pad)


FAULT = Fault(
    id="phantom-vocab",
    about="zero logits of padded vocabulary rows in the trainer's normaliser",
    causes=("vocab-padding",),
    family="semantics",
    side="train",
    kind="plugin",
    severities={"plain": 16384, "medium": 1024, "slight": 64},
    plant=plant,
)
