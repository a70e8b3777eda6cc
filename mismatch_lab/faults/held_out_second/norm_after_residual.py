"""One layer of the trainer takes its residual after the norm, not before it (a Megatron flag)."""

from __future__ import annotations

from functools import partial
from typing import Any

from mismatch_lab.faults.architectures import middle_layer
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, middle_of


def plant(model: Any, strength: float) -> None:
    """In the middle layer `strength` of the residual is the normed one."""
    layer = middle_of(model)
    layer.forward = partial(_forward, layer, strength)


def _forward(layer: Any, share: float, hidden_states: Any, **options: Any) -> Any:
    """As transformers' decoder layers do but for the residual; also with blocks side by side."""
    normed = layer.input_layernorm(hidden_states)
    residual = hidden_states.lerp(normed, share)
    attended, _ = layer.self_attn(hidden_states=normed, **options)
    if not hasattr(layer, "post_attention_layernorm"):
        return residual + attended + layer.mlp(normed)
    hidden_states = residual + attended
    output = layer.mlp(layer.post_attention_layernorm(hidden_states))
    return hidden_states + (output[0] if isinstance(output, tuple) else output)


FAULT = Fault(
    id="norm-after-residual",
    about="residual of one layer of the trainer taken after the norm",
    causes=(UNLISTED,),
    family="trainer",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.1, "slight": 0.01},
    expected_location=lambda config: f"model.layers.{middle_layer(config)}",
    plant=plant,
)
