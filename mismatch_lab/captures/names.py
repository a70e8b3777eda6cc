"""Module names as transformers gives them, whatever an engine calls its own."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

LAYERS = "model.layers"
EMBEDDING = "model.embed_tokens"
FINAL_NORM = "model.norm"
HEAD = "lm_head"

_TOP = {
    "embed_tokens": EMBEDDING,
    "embedding": EMBEDDING,
    "wte": EMBEDDING,
    "word_embeddings": EMBEDDING,
    "norm": FINAL_NORM,
    "ln_f": FINAL_NORM,
    "lm_head": HEAD,
}
_BLOCKS = {
    "attn": "self_attn",
    "attention": "self_attn",
    "self_attention": "self_attn",
    "block_sparse_moe": "mlp",
    "feed_forward": "mlp",
    "ffn": "mlp",
    "moe": "mlp",
}
"""What programs call the two blocks of a decoder layer, each as most of transformers does."""

_SAME_PART = ({"router", "gate"}, {"shared_expert", "shared_experts", "shared_mlp"})
"""Last components that two programs may give one and the same part."""

HOOKED = "prefill"
"""Re-scoring by the engine that is hooked, with hidden states and the rest."""

CONFIGURED = "prefill_configured"
"""Re-scoring by the engine as configured; not there where that one is hooked itself."""

SECOND = "second"
"""Re-scoring by the second engine of a three-way run, as configured."""


def canonical_name(name: str) -> str:
    """The name of a module, or of a tensor's module, with the model's outer parts as transformers
    mostly calls them. The first number in a path is that of its decoder layer.

    >>> canonical_name("transformer.h.3.attn.c_proj")
    'model.layers.3.self_attn.c_proj'
    """
    parts = name.split(".")
    layer = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if layer is None:
        return _TOP.get(parts[-1], name) if len(parts) <= 3 and "visual" not in parts else name
    within = parts[layer + 1 :]
    if within:
        within[0] = _BLOCKS.get(within[0], within[0])
    return ".".join([LAYERS, parts[layer], *within])


def layer_of(name: str) -> int | None:
    """Number of the decoder layer that a canonical name belongs to; None outside of them."""
    number = name.removeprefix(f"{LAYERS}.").partition(".")[0]
    return int(number) if name.startswith(f"{LAYERS}.") and number.isdigit() else None


def nesting(name: str) -> int:
    """Depth in the module tree: a layer 2, its attention 3, a projection in it 4.

    The final norm holds nothing and is held by nothing: it goes with the attentions and norms.
    """
    return 3 if name.startswith(FINAL_NORM) else name.count(".")


def renamed(names: Iterable[str], known: Collection[str]) -> dict[str, str]:
    """Each name as `known` has it: itself, or a synonym that nothing else among the names takes."""
    names = list(names)
    return {name: next(_candidates(name, names, known), name) for name in names}


def _candidates(name: str, names: list[str], known: Collection[str]) -> Iterator[str]:
    if name in known:
        return iter((name,))
    stem, _, last = name.rpartition(".")
    others = {other for same in _SAME_PART if last in same for other in same - {last}}
    found = sorted(f"{stem}.{other}" for other in others)
    return (other for other in found if other in known and other not in names)


def kind_of(name: str) -> str:
    """embedding, norm, attention, router, experts, mlp, layer, projection or head."""
    if name == HEAD:
        return "head"
    if re.fullmatch(r"model\.layers\.\d+", name):
        return "layer"
    last = name.rsplit(".", 1)[-1]
    if "norm" in last or last.startswith("ln_"):
        return "norm"
    table = {
        "embed_tokens": "embedding",
        "self_attn": "attention",
        "attn": "attention",
        "router": "router",
        "gate": "router",
        "experts": "experts",
        "mlp": "mlp",
        "shared_expert": "mlp",
        "shared_experts": "mlp",
        "shared_mlp": "mlp",
    }
    return table.get(last, "projection")
