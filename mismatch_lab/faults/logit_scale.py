"""One side multiplies the logits by a constant of the config, the other leaves it out."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault


def plant(model: Any, strength: float) -> None:
    """The trainer's logits times 1 + strength, after softcaps."""

    def scale(_module: Any, _args: Any, output: Any) -> Any:
        output["logits"] = output.logits * (1 + strength)
        return output

    model.register_forward_hook(scale)


FAULT = Fault(
    id="logit-scale",
    about="logits of the trainer scaled by a constant",
    causes=("logit-scale",),
    family="semantics",
    side="train",
    kind="plugin",
    severities={"plain": 0.25, "medium": 0.05, "slight": 0.01},
    plant=plant,
)
