"""The trainer clamps its logits, so that none of them overflows."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED


def plant(model: Any, strength: float) -> None:
    """To between -strength and strength."""

    def clamp(_module: Any, _args: Any, output: Any) -> Any:
        output["logits"] = output.logits.clamp(-strength, strength)
        return output

    model.register_forward_hook(clamp)


FAULT = Fault(
    id="logits-clamp",
    about="logits of the trainer clamped",
    causes=(UNLISTED, "logit-softcap"),
    why_several="a clamp is a cap, if no soft one",
    family="semantics",
    side="train",
    kind="plugin",
    severities={"plain": 6.0, "medium": 9.0, "slight": 12.0},
    plant=plant,
)
