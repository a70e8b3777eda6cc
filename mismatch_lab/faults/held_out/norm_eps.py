"""The trainer's norms have the epsilon of another config."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, first_layer


def plant(model: Any, strength: float) -> None:
    """Every norm's epsilon `strength` times as large."""
    for module in model.modules():
        for name in ("variance_epsilon", "eps"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, getattr(module, name) * strength)


FAULT = Fault(
    id="norm-eps",
    about="epsilon of the trainer's norms too large",
    causes=(UNLISTED,),
    family="precision",
    side="train",
    kind="plugin",
    severities={"plain": 1000.0, "medium": 100.0, "slight": 10.0},
    expected_location=first_layer("input_layernorm"),
    plant=plant,
)
