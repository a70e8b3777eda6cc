"""The trainer's flash kernel takes bf16 whatever the model's dtype is."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, first_layer
from mismatch_lab.faults.modules import Attention, layers, share_of, wrap_attention
from mismatch_lab.faults.rounding import rounded


def plant(model: Any, strength: float) -> None:
    """In the first `strength` share of the layers queries, keys, values and output are rounded."""

    def wrap(attention: Attention) -> Attention:
        def narrow(module: Any, q: Any, k: Any, v: Any, *args: Any, **options: Any) -> Any:
            q, k, v = (rounded(states, "bfloat16") for states in (q, k, v))
            output, weights = attention(module, q, k, v, *args, **options)
            return rounded(output, "bfloat16"), weights

        return narrow

    wrap_attention(share_of(layers(model), strength), wrap)


FAULT = Fault(
    id="attention-bf16",
    about="attention of the trainer in bf16, the rest in float32",
    causes=(UNLISTED,),
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
    expected_location=first_layer("self_attn"),
    dtypes=("float32",),
    plant=plant,
)
