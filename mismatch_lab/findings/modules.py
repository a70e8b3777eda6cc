"""Names and order of modules: what runs before what, and what holds what."""

from __future__ import annotations

import re

_WITHIN = (
    "input_layernorm",
    "self_attn.qkv_proj",
    "self_attn.q_proj",
    "self_attn.q_norm",
    "self_attn.k_proj",
    "self_attn.k_norm",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "self_attn",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "mlp.router",
    "mlp.gate",
    "mlp.gate_up_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.experts",
    "mlp.shared_expert",
    "mlp.down_proj",
    "mlp",
    "post_feedforward_layernorm",
)
"""Modules of a decoder layer as they run; a module comes after those inside it."""

HEAD = "lm_head"


def execution_order(name: str) -> tuple[int, int]:
    """Sort key of a module name by when its output is there."""
    if name == "model.embed_tokens":
        return (-1, 0)
    if name == "model.norm":
        return (1 << 30, 0)
    if name == HEAD:
        return (1 << 30, 1)
    layer, _, within = name.removeprefix("model.layers.").partition(".")
    if not within:
        return (int(layer), len(_WITHIN) + 1)
    place = _WITHIN.index(within) if within in _WITHIN else len(_WITHIN)
    return (int(layer), place)


def kind_of(name: str) -> str:
    """embedding, norm, attention, router, experts, mlp, layer, projection or head."""
    if name == HEAD:
        return "head"
    last = name.rsplit(".", 1)[-1]
    if re.fullmatch(r"model\.layers\.\d+", name):
        return "layer"
    table = {
        "embed_tokens": "embedding",
        "self_attn": "attention",
        "router": "router",
        "gate": "router",
        "experts": "experts",
        "mlp": "mlp",
    }
    return table.get(last, "norm" if "norm" in last else "projection")
