"""The engine's logits processor leaves Gemma-2's final softcap out."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import has_final_softcap
from mismatch_lab.faults.base import Fault


def plant(model: Any, strength: float) -> None:
    """vLLM's cap over 1 - strength; 1 drops it."""
    processor = model.logits_processor
    processor.soft_cap = None if strength == 1 else processor.soft_cap / (1 - strength)


FAULT = Fault(
    id="engine-final-softcap",
    about="final logit softcap of the engine dropped or too wide",
    causes=("logit-softcap",),
    family="semantics",
    side="infer",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.3, "slight": 0.03},
    applies=has_final_softcap,
    engines=("vllm",),
    plant=plant,
)
