"""The engine rotates neighbouring dimensions, where the model pairs the two halves."""

from __future__ import annotations

import copy
from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, first_layer
from mismatch_lab.faults.modules import is_vllm, layers, self_attention, share_of


def plant(model: Any, strength: float) -> None:
    """The first `strength` share of the layers."""
    for layer in share_of(layers(model), strength):
        attention = self_attention(layer)
        if is_vllm(model):
            own = attention.rotary_emb = copy.copy(attention.rotary_emb)  # layers share one
            own.is_neox_style = False
            own._forward_method = own.dispatch_forward(compile_native=False)  # not the shared one's
        else:
            _interleave(attention, model.config)


def _interleave(attention: Any, config: Any) -> None:
    """Dimensions 0, 2, … then 1, 3, … of queries and keys: halves of it are the neighbours of old,
    and scores do not see the order.
    """
    import torch

    size = attention.head_dim
    rotary = round(size * config.rope_parameters.get("partial_rotary_factor", 1.0))
    order = [*range(0, rotary, 2), *range(1, rotary, 2), *range(rotary, size)]
    heads = config.num_attention_heads + config.num_key_value_heads

    def reorder(_module: Any, _args: Any, output: Any) -> Any:
        fused = hasattr(attention, "qkv_proj")
        end = heads * size if fused else output.shape[-1]
        states = output[..., :end].unflatten(-1, (-1, size))[..., order].flatten(-2)
        return torch.cat([states, output[..., end:]], dim=-1)

    names = ("q_norm", "k_norm") if hasattr(attention, "q_norm") else ("q_proj", "k_proj")
    for name in ("qkv_proj",) if hasattr(attention, "qkv_proj") else names:
        getattr(attention, name).register_forward_hook(reorder)


FAULT = Fault(
    id="rope-interleaved",
    about="rotary embedding of the engine in the interleaved style",
    causes=(UNLISTED,),
    family="attention",
    side="infer",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
    expected_location=first_layer("self_attn"),
    plant=plant,
)
