"""The engine biases the end-of-sequence token, a length control that the trainer does not know."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED


def plant(model: Any, strength: float) -> None:
    """`strength` is added to the logit of every end-of-sequence token."""
    ends = model.config.eos_token_id

    def bias(_module: Any, _args: Any, output: Any) -> Any:
        output["logits"] = output.logits.clone()
        output.logits[..., ends] += strength
        return output

    model.register_forward_hook(bias)


FAULT = Fault(
    id="eos-bias",
    about="logit of the end-of-sequence token biased in the engine",
    causes=(UNLISTED, "sampling-penalties"),
    why_several="a bias against one token is a penalty, if none on what was said before",
    family="semantics",
    side="infer",
    kind="plugin",
    severities={"plain": -12.0, "medium": -8.0, "slight": -6.0},
    engines=("hf",),
    plant=plant,
)
