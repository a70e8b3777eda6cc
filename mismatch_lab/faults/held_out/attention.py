"""Attention: kernels, masks, positions, projections, and the keys and values kept."""

from __future__ import annotations

import copy
from typing import Any

from mismatch_lab.faults.architectures import first_attention, has_window, layer_types
from mismatch_lab.faults.base import Config, Fault
from mismatch_lab.faults.cache import round_cache
from mismatch_lab.faults.held_out.parts import UNLISTED, first_layer
from mismatch_lab.faults.modules import (
    Attention,
    is_vllm,
    layers,
    rotary,
    self_attention,
    share_of,
    wrap_attention,
)
from mismatch_lab.faults.rounding import rounded


def scale_scores(model: Any, strength: float) -> None:
    """The trainer scales attention scores by another head size.

    Scores of every layer times `strength`.
    """
    for layer in layers(model):
        layer.self_attn.scaling *= strength


def narrow_attention(model: Any, strength: float) -> None:
    """The trainer's flash kernel takes bf16 whatever the model's dtype is.

    In the first `strength` share of the layers queries, keys, values and output are rounded.
    """

    def wrap(attention: Attention) -> Attention:
        def narrow(module: Any, q: Any, k: Any, v: Any, *args: Any, **options: Any) -> Any:
            q, k, v = (rounded(states, "bfloat16") for states in (q, k, v))
            output, weights = attention(module, q, k, v, *args, **options)
            return rounded(output, "bfloat16"), weights

        return narrow

    wrap_attention(share_of(layers(model), strength), wrap)


def mix_up_heads(model: Any, strength: float) -> None:
    """The engine gives query heads the wrong key-value head: repeated as a whole, not each.

    The first `strength` share of the layers.
    """

    def wrap(attention: Attention) -> Attention:
        def mapped(module: Any, q: Any, k: Any, v: Any, *args: Any, **options: Any) -> Any:
            groups = module.num_key_value_groups
            k, v = (states.repeat(1, groups, 1, 1) for states in (k, v))  # [B, heads, n, d]
            module.num_key_value_groups = 1
            try:
                output: tuple[Any, Any] = attention(module, q, k, v, *args, **options)
            finally:
                module.num_key_value_groups = groups
            return output

        return mapped

    wrap_attention(share_of(layers(model), strength), wrap)


def see_next_token(model: Any, strength: float) -> None:
    """The trainer's causal mask lets a token see the next one.

    In the first `strength` share of the layers each query has the mask of the one after it.
    """

    def wrap(attention: Attention) -> Attention:
        def peeking(module: Any, q: Any, k: Any, v: Any, mask: Any, **options: Any) -> Any:
            import torch

            if mask is None:
                mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
                mask = mask.tril(k.shape[2] - q.shape[2])[None, None]
            mask = torch.cat([mask[:, :, 1:], mask[:, :, -1:]], dim=2)
            output: tuple[Any, Any] = attention(module, q, k, v, mask, **options)
            return output

        return peeking

    wrap_attention(share_of(layers(model), strength), wrap)


def shrink_windows(model: Any, strength: float) -> None:
    """The trainer has the sliding window of another release of the model.

    The window is shorter by a share of `strength`.
    """
    window = round(model.config.sliding_window * (1 - strength))
    model.config.sliding_window = window
    for module in model.modules():
        if getattr(module, "sliding_window", None):
            module.sliding_window = window


def has_any_window(model_type: str, config: Config) -> bool:
    """On some layers, or, without `layer_types`, on all."""
    del model_type
    kinds = config.get("layer_types") or ["sliding_attention"]
    return bool(config.get("sliding_window")) and "sliding_attention" in kinds


def first_windowed(config: Config) -> str:
    kinds = config.get("layer_types") or ["sliding_attention"]
    return f"model.layers.{kinds.index('sliding_attention')}.self_attn"


def exchange_layer_types(model: Any, strength: float) -> None:
    """The trainer puts the sliding window on the odd layers instead of the even ones.

    The first `strength` share of the layers has the other kind of attention.
    """
    kinds = list(model.config.layer_types)
    for layer in range(max(1, round(strength * len(kinds)))):
        windowed = kinds[layer] == "full_attention"
        kinds[layer] = "sliding_attention" if windowed else "full_attention"
        window = model.config.sliding_window if windowed else None
        model.model.layers[layer].self_attn.sliding_window = window
    model.config.layer_types = kinds


def has_both(model_type: str, config: Config) -> bool:
    """Windowed layers among others."""
    return has_window(model_type, config) and "full_attention" in layer_types(config)


FROM = 24
"""First position that is wrong: beyond the template, before most answers end."""


def stall_positions(model: Any, strength: float) -> None:
    """The trainer numbers the answer's positions from too small a number.

    Positions from FROM on are `strength` too small.
    """

    def stalled(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
        ids = given - int(strength) * (given >= FROM).to(given.dtype)
        if "position_ids" in kwargs:
            return args, kwargs | {"position_ids": ids}
        return (args[0], ids, *args[2:]), kwargs

    for embedding in rotary(model):
        embedding.register_forward_pre_hook(stalled, with_kwargs=True)


def rotate_neighbours(model: Any, strength: float) -> None:
    """The engine rotates neighbouring dimensions, where the model pairs the two halves.

    The first `strength` share of the layers.
    """
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


def skip_norms(model: Any, strength: float) -> None:
    """The trainer's attention leaves out the norms of queries and keys.

    In the first `strength` share of the layers they pass through as they are.
    """
    for layer in share_of(layers(model), strength):
        for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
            norm.register_forward_hook(lambda _module, args, _output: args[0])


def has_qk_norm(model_type: str, config: Config) -> bool:
    """The configs do not say."""
    del config
    return model_type in ("olmoe", "qwen3", "qwen3_moe")


def drop_biases(model: Any, strength: float) -> None:
    """The trainer's model was built without the biases of queries, keys and values.

    They are zero in the first `strength` share of the layers.
    """
    for layer in share_of(layers(model), strength):
        attention = layer.self_attn
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.bias.data.zero_()


def has_biases(model_type: str, config: Config) -> bool:
    """Qwen2 always has them and does not say so."""
    return model_type == "qwen2" or bool(config.get("attention_bias"))


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="attention-bf16",
        about="attention of the trainer in bf16, the rest in float32",
        causes=(UNLISTED,),
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        expected_location=first_layer("self_attn"),
        dtypes=("float32",),
        plant=narrow_attention,
    ),
    Fault(
        id="attention-scale",
        about="attention scores of the trainer scaled wrongly",
        causes=(UNLISTED, "rope-scaling"),
        why_several="YaRN's attention factor is a factor on all scores as well",
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 0.5, "medium": 0.9, "slight": 0.99},
        expected_location=first_layer("self_attn"),
        plant=scale_scores,
    ),
    Fault(
        id="gqa-mapping",
        about="query heads of the engine with the wrong key-value heads",
        causes=(UNLISTED,),
        family="attention",
        side="infer",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        expected_location=first_layer("self_attn"),
        engines=("hf",),
        plant=mix_up_heads,
    ),
    # The engine keeps keys and values as integers, with a scale for each token and head.
    Fault(
        id="kv-cache-int8",
        about="keys and values of the engine's cache in integers",
        causes=("kv-cache-quantisation",),
        family="cache",
        side="infer",
        kind="plugin",
        severities={"plain": "int4", "medium": "int8", "slight": "float16"},
        expected_location=first_attention,
        dtypes=("float32",),
        plant=round_cache,
    ),
    Fault(
        id="mask-future",
        about="causal mask of the trainer off by one",
        causes=(UNLISTED,),
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        expected_location=first_layer("self_attn"),
        plant=see_next_token,
    ),
    Fault(
        id="positions-stall",
        about="positions of the trainer repeat themselves in the middle of a row",
        causes=(UNLISTED,),
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 16, "medium": 4, "slight": 1},
        expected_location=first_layer("self_attn"),
        plant=stall_positions,
    ),
    Fault(
        id="qk-norm-skipped",
        about="norms of queries and keys skipped by the trainer",
        causes=(UNLISTED,),
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        applies=has_qk_norm,
        expected_location=first_layer("self_attn"),
        plant=skip_norms,
    ),
    Fault(
        id="qkv-bias-dropped",
        about="biases of queries, keys and values missing in the trainer",
        causes=(UNLISTED, "stale-tensor"),
        why_several="tensors then hold other numbers than the checkpoint's",
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        applies=has_biases,
        expected_location=first_layer("self_attn"),
        plant=drop_biases,
    ),
    Fault(
        id="rope-interleaved",
        about="rotary embedding of the engine in the interleaved style",
        causes=(UNLISTED,),
        family="attention",
        side="infer",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        expected_location=first_layer("self_attn"),
        plant=rotate_neighbours,
    ),
    Fault(
        id="window-on-other-layers",
        about="sliding window on the wrong layers of the trainer",
        causes=("sliding-window",),
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        applies=has_both,
        expected_location=first_layer("self_attn"),
        plant=exchange_layer_types,
    ),
    Fault(
        id="window-shrunk",
        about="sliding window of the trainer too short",
        causes=("sliding-window",),
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 0.5, "medium": 0.25, "slight": 0.0625},
        applies=has_any_window,
        expected_location=first_windowed,
        plant=shrink_windows,
    ),
)
