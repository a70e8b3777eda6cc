"""Every parameter's shape, from a config.json: no weights, no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from mismatch_lab.checkpoints.config import read_config_json
from mismatch_lab.errors import InputError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ModelShape:
    """A decoder whose layers are all alike."""

    family: str
    """`model_type` of transformers."""
    hidden: int
    intermediate: int
    """Of one expert, where there are any."""
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    layer: tuple[Shape, ...]
    """Parameters of one decoder layer; FSDP2 gathers them together."""
    root: tuple[Shape, ...]
    """Embedding, last norm and, unless it is the embedding, head: gathered together too."""
    experts: int = 0
    top_k: int = 0
    qk_norm: bool = False
    sliding_layers: int = 0
    window: int = 0
    """Tokens that a sliding layer attends to."""

    @property
    def queries(self) -> int:
        """Numbers in the queries of one token."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Numbers in the keys of one token; as many in its values."""
        return self.kv_heads * self.head_dim

    @property
    def parameters_of_groups(self) -> tuple[int, int]:
        """Of one layer, and of the root."""
        return sharded_numbers(self.layer, 1), sharded_numbers(self.root, 1)

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        layer, root = self.parameters_of_groups
        return self.layers * layer + root


def sharded_numbers(shapes: Iterable[Shape], ranks: int) -> int:
    """Numbers that one rank holds of some parameters, padding included.

    FSDP2 cuts the first dimension into pieces of ceil(size / ranks): 32 experts over 7 ranks are
    5 to a rank, and over 64 ranks one.
    """
    return sum(-(-shape[0] // ranks) * prod(shape[1:]) for shape in shapes)


def read_shape(model: str) -> ModelShape:
    """Of a checkpoint: a folder with a config.json (weights need not be there), or a hub name.

    Raises:
        InputError: no such config, an architecture that is not known here, or a missing field.
    """
    return shape_of(read_config_json(model), model)


def shape_of(config: Mapping[str, Any], where: str) -> ModelShape:
    """Of a config that has been read; `where` names it in errors."""
    family = str(config.get("model_type"))
    if family not in MIXERS or config.get("mlp_only_layers"):
        raise InputError(
            f"{where}: the planner does not know layers of model_type {family!r}.",
            f"It knows {', '.join(MIXERS)}, all layers alike.",
        )
    try:
        return _shape(config, family)
    except KeyError as error:
        raise InputError(f"{where} has no {error.args[0]}.") from error


def _shape(config: Mapping[str, Any], family: str) -> ModelShape:
    hidden, heads, layers = (
        int(config[name]) for name in ("hidden_size", "num_attention_heads", "num_hidden_layers")
    )
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or hidden // heads)
    mixer, (intermediate, experts, top_k) = MIXERS[family](config, hidden)
    embedding = (int(config["vocab_size"]), hidden)
    root = (embedding, (hidden,)) + (() if config.get("tie_word_embeddings") else (embedding,))
    kinds = config.get("layer_types") or ()
    return ModelShape(
        family=family,
        hidden=hidden,
        intermediate=intermediate,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=embedding[0],
        layer=(*_attention(config, family, hidden, (heads, kv_heads, head_dim)), *mixer),
        root=root,
        experts=experts,
        top_k=top_k,
        qk_norm=family in QK_NORM,
        sliding_layers=sum(kind == "sliding_attention" for kind in kinds),
        window=int(config.get("sliding_window") or 0),
    )


QK_NORM = ("qwen3", "qwen3_moe")


def _attention(
    config: Mapping[str, Any], family: str, hidden: int, heads: tuple[int, int, int]
) -> list[Shape]:
    """Both norms, projections, and what a family adds to them."""
    n, n_kv, size = heads
    outs = (n * size, n_kv * size, n_kv * size)
    shapes: list[Shape] = [(hidden,), (hidden,), *((out, hidden) for out in outs)]
    shapes.append((hidden, n * size))
    biased = bool(config.get("attention_bias", family == "gpt_oss"))
    if biased or family == "qwen2":  # qwen2's output has none
        shapes += [(out,) for out in outs] + [(hidden,)] * biased
    if family in QK_NORM:
        shapes += [(size,), (size,)]
    if family == "gpt_oss":
        shapes.append((n,))  # sinks
    return shapes


Mixer = tuple[list[Shape], tuple[int, int, int]]
"""Shapes; width, experts, experts of a token."""


def _dense(config: Mapping[str, Any], hidden: int) -> Mixer:
    wide = int(config["intermediate_size"])
    shapes: list[Shape] = [(wide, hidden), (wide, hidden), (hidden, wide)]
    if config.get("mlp_bias"):
        shapes += [(wide,), (wide,), (hidden,)]
    return shapes, (wide, 0, 0)


def _qwen3_moe(config: Mapping[str, Any], hidden: int) -> Mixer:
    wide, top_k = int(config["moe_intermediate_size"]), int(config["num_experts_per_tok"])
    # transformers 5 writes the second name.
    n = int(config.get("num_experts") or config["num_local_experts"])
    return [(n, hidden), (n, 2 * wide, hidden), (n, hidden, wide)], (wide, n, top_k)


def _gpt_oss(config: Mapping[str, Any], hidden: int) -> Mixer:
    wide, top_k = int(config["intermediate_size"]), int(config["num_experts_per_tok"])
    n = int(config["num_local_experts"])
    router: list[Shape] = [(n, hidden), (n,)]
    up: list[Shape] = [(n, hidden, 2 * wide), (n, 2 * wide)]
    return [*router, *up, (n, wide, hidden), (n, hidden)], (wide, n, top_k)


MIXERS: dict[str, Callable[[Mapping[str, Any], int], Mixer]] = {
    "gpt_oss": _gpt_oss,
    "llama": _dense,
    "qwen2": _dense,
    "qwen3": _dense,
    "qwen3_moe": _qwen3_moe,
}
"""What stands after attention, by `model_type`."""
