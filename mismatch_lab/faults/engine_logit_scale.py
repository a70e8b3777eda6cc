"""The engine's logits processor has another scale than the trainer's head."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault


def plant(model: Any, strength: float) -> None:
    """vLLM's logits over 1 + strength."""
    model.logits_processor.scale /= 1 + strength


FAULT = Fault(
    id="engine-logit-scale",
    about="logits of the engine scaled by a constant",
    causes=("logit-scale",),
    family="semantics",
    side="infer",
    kind="plugin",
    severities={"plain": 0.25, "medium": 0.05, "slight": 0.01},
    engines=("vllm",),
    plant=plant,
)
