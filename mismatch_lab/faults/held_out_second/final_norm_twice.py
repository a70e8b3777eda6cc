"""The trainer's head norms hidden states that are normed already."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED


def plant(model: Any, strength: float) -> None:
    """`strength` of the second norm's effect."""

    def again(module: Any, _args: Any, output: Any) -> Any:
        return output.lerp(module.forward(output), strength)

    model.model.norm.register_forward_hook(again)


FAULT = Fault(
    id="final-norm-twice",
    about="final norm of the trainer applied twice",
    causes=(UNLISTED,),
    family="precision",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.3, "slight": 0.1},
    expected_location=lambda _config: "model.norm",
    plant=plant,
)
