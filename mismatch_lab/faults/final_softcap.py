"""The trainer's head leaves Gemma-2's final softcap out."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import has_final_softcap
from mismatch_lab.faults.base import Fault


def plant(model: Any, strength: float) -> None:
    """The cap over 1 - strength; 1 drops it."""
    cap = model.config.final_logit_softcapping
    model.config.final_logit_softcapping = None if strength == 1 else cap / (1 - strength)


FAULT = Fault(
    id="final-softcap",
    about="final logit softcap of the trainer dropped or too wide",
    causes=("logit-softcap",),
    family="semantics",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.3, "slight": 0.03},
    applies=has_final_softcap,
    plant=plant,
)
