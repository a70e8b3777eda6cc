"""Module names as transformers gives them, whatever an engine calls its own."""

from __future__ import annotations

import re

_LAYER = re.compile(r"(?:^|.*\.)(?:layers|h|blocks)\.(\d+)(?:\.(.*))?$")
_TOP = {
    "embed_tokens": "model.embed_tokens",
    "embedding": "model.embed_tokens",
    "wte": "model.embed_tokens",
    "norm": "model.norm",
    "ln_f": "model.norm",
}
_BLOCKS = {
    "attn": "self_attn",
    "attention": "self_attn",
    "self_attention": "self_attn",
    "block_sparse_moe": "mlp",
    "feed_forward": "mlp",
    "moe": "mlp",
}
_PARTS = {
    "self_attn": {"q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "q_norm", "k_norm"},
    "mlp": {
        "router", "gate", "experts", "gate_proj", "up_proj", "gate_up_proj", "down_proj",
        "shared_expert",
    },
}  # fmt: skip


def canonical_name(name: str) -> str | None:
    """The transformers name of a module, or None where it is not worth a tap.

    >>> canonical_name("model.layers.3.attn.qkv_proj")
    'model.layers.3.self_attn.qkv_proj'
    """
    found = _LAYER.match(name)
    if not found:
        parts = name.split(".")
        return _TOP.get(parts[-1]) if len(parts) <= 3 and "visual" not in parts else None
    layer, rest = found.groups()
    if not rest:
        return f"model.layers.{layer}"
    block, *tail = rest.split(".")
    block = _BLOCKS.get(block, block)
    if tail and (len(tail) > 1 or tail[0] not in _PARTS.get(block, ())):
        return None
    return ".".join(["model.layers", layer, block, *tail])
