"""The trainer's attention kernel takes no softcap."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_attention, has_attention_softcap
from mismatch_lab.faults.base import Fault, RunOptions
from mismatch_lab.faults.modules import Attention, layers, wrap_attention


def plant(model: Any, strength: float) -> None:
    """The cap over 1 - strength; 1 drops it."""

    def wrap(attention: Attention) -> Attention:
        def uncapped(module: Any, *args: Any, softcap: float, **options: Any) -> tuple[Any, Any]:
            cap = None if strength == 1 else softcap / (1 - strength)
            return attention(module, *args, softcap=cap, **options)

        return uncapped

    wrap_attention(layers(model), wrap)


def options(strength: float) -> RunOptions:
    """Eager attention: transformers' sdpa drops the cap by itself."""
    del strength
    return RunOptions(trainer_args={"attn_implementation": "eager"})


FAULT = Fault(
    id="attention-softcap",
    about="attention softcap of the trainer dropped or too wide",
    causes=("attention-softcap",),
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.05},
    applies=has_attention_softcap,
    expected_location=first_attention,
    plant=plant,
    options=options,
)
