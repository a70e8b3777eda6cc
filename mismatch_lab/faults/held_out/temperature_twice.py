"""The trainer divides logits by the temperature that its model already divides by."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault, RunOptions


def plant(model: Any, strength: float) -> None:
    """Logits over the temperature, once more than is asked for."""

    def divide(_module: Any, _args: Any, output: Any) -> Any:
        output["logits"] = output.logits / strength
        return output

    model.register_forward_hook(divide)


def options(strength: float) -> RunOptions:
    """Sampled at that temperature, which both sides know."""
    return RunOptions(sampling={"temperature": strength})


FAULT = Fault(
    id="temperature-twice",
    about="temperature applied twice in the trainer",
    causes=("logit-scale", "raw-logprobs-temperature"),
    why_several="a factor on the logits is both",
    family="semantics",
    side="train",
    kind="plugin",
    severities={"plain": 0.6, "medium": 0.85, "slight": 0.98},
    plant=plant,
    options=options,
)
