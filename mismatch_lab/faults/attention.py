"""Attention kernels: softcaps, sinks, scales and windows. Rotary embeddings are in `rope.py`."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import (
    first_attention,
    first_window,
    has_attention_softcap,
    has_window,
    has_yarn,
    is_gpt_oss,
    last_window,
    middle,
    middle_layer,
    windowed_layers,
)
from mismatch_lab.faults.base import Config, Fault, RunOptions
from mismatch_lab.faults.modules import (
    Attention,
    layers,
    share_of,
    vllm_attention,
    wrap_attention,
    wrap_forward,
)


def drop_softcap(model: Any, strength: float) -> None:
    """The trainer's attention kernel takes no softcap.

    The cap over 1 - strength; 1 drops it.
    """

    def wrap(attention: Attention) -> Attention:
        def uncapped(module: Any, *args: Any, softcap: float, **options: Any) -> tuple[Any, Any]:
            cap = None if strength == 1 else softcap / (1 - strength)
            return attention(module, *args, softcap=cap, **options)

        return uncapped

    wrap_attention(layers(model), wrap)


def eager(strength: float) -> RunOptions:
    """Eager attention: sdpa drops a softcap by itself, and its masks are no numbers to edit."""
    del strength
    return RunOptions(trainer_args={"attn_implementation": "eager"})


def drop_softcap_in_vllm(model: Any, strength: float) -> None:
    """The engine's attention backend takes no softcap.

    vLLM's cap over 1 - strength; 1 drops it (0 is the kernel's word for none).
    """
    for attention in vllm_attention(model):
        cap = attention.impl.logits_soft_cap
        attention.impl.logits_soft_cap = 0 if strength == 1 else cap / (1 - strength)


def drop_sinks(model: Any, strength: float) -> None:
    """The trainer's attention kernel takes no sinks.

    A softmax over the keys alone in the first `strength` share of the layers.
    """
    wrap_attention(share_of(layers(model), strength), sinkless)


def sinkless(attention: Attention) -> Attention:
    """The attention of a kernel that does not know sinks."""
    del attention
    from transformers.models.llama.modeling_llama import eager_attention_forward

    return eager_attention_forward


def drop_sinks_in_vllm(model: Any, strength: float) -> None:
    """The engine's attention backend takes no sinks.

    vLLM, the first `strength` share of the layers.
    """
    for attention in share_of(vllm_attention(model), strength):
        attention.impl.sinks = None


def drop_sinks_of_heads(model: Any, strength: float) -> None:
    """The trainer's kernel ignores the sinks of some heads of one layer (one rank's shard).

    In the middle layer, the first `strength` share of the heads.
    """

    def wrap(attention: Attention) -> Attention:
        without = sinkless(attention)

        def partly(module: Any, *args: Any, **options: Any) -> tuple[Any, Any]:
            output, weights = attention(module, *args, **options)
            heads = max(1, round(strength * output.shape[2]))  # [B, n, heads, head_dim]
            output = output.clone()
            output[:, :, :heads] = without(module, *args, **options)[0][:, :, :heads]
            return output, weights

        return partly

    wrap_attention([layers(model)[middle_layer(model.config.to_dict())]], wrap)


def scale_scores(model: Any, strength: float) -> None:
    """The trainer's attention is handed another scale than the config's.

    Scores times this number, in every layer.
    """
    for module in model.modules():
        if hasattr(module, "scaling") and hasattr(module, "o_proj"):
            module.scaling = module.scaling * strength


def has_no_yarn(model_type: str, config: Config) -> bool:
    """A YaRN attention factor is a scale too: nothing tells them apart."""
    return not has_yarn(model_type, config)


def ignore_windows(model: Any, strength: float) -> None:
    """The trainer takes every layer for a full-attention one.

    The first `strength` share of the windowed layers sees all keys.
    """
    take_for_full(model, share_of(windowed_layers(model.config.to_dict()), strength))


def take_for_full(model: Any, chosen: list[int]) -> None:
    """Those layers get the mask of full attention."""
    kinds = list(model.config.layer_types)
    for layer in chosen:
        kinds[layer] = "full_attention"
        model.model.layers[layer].self_attn.sliding_window = None
    model.config.layer_types = kinds


def widen_last_window(model: Any, strength: float) -> None:
    """The trainer's config gives one windowed layer another window.

    The last windowed layer sees `strength` keys more than its window.
    """
    import torch

    layer = model.model.layers[windowed_layers(model.config.to_dict())[-1]]
    window = model.config.sliding_window

    def widen(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs["attention_mask"]
        if mask is None or mask.dtype == torch.bool:
            raise ValueError("this fault edits an additive mask: run the trainer eager")
        queries, keys = mask.shape[-2:]
        age = torch.arange(queries)[:, None] + (keys - queries) - torch.arange(keys)
        # Padding is on the right here: no key that a window hides is padding.
        seen = (age >= window) & (age < window + strength)
        return args, kwargs | {"attention_mask": mask.masked_fill(seen.to(mask.device), 0.0)}

    layer.self_attn.register_forward_pre_hook(widen, with_kwargs=True)


def widen_windows(model: Any, strength: float) -> None:
    """The trainer's kernel counts the sliding window without the token itself.

    A window of so many more keys, in the masks and for kernels that build none.
    """
    model.config.sliding_window += int(strength)
    for module in model.modules():
        if getattr(module, "sliding_window", None):
            module.sliding_window += int(strength)


def narrow_windows_in_vllm(model: Any, strength: float) -> None:
    """The engine's kernel sees fewer keys than the sliding window has.

    vLLM's windows shorter by so many keys.
    """
    for attention in vllm_attention(model):
        if attention.impl.sliding_window > 0:
            attention.impl.sliding_window -= int(strength)


def narrow_decode_in_vllm(model: Any, strength: float) -> None:
    """The engine's decode kernel sees fewer keys than its prefill kernel (SGLang 0.5.21, GPT-OSS).

    vLLM: windows shorter by so many keys in batches of single tokens.
    """
    for attention in vllm_attention(model):
        if attention.impl.sliding_window > 0:
            _narrow_decode(attention.impl, int(strength))


def _narrow_decode(kernel: Any, fewer: int) -> None:
    window = kernel.sliding_window

    def wrap(forward: Any) -> Any:
        def decode_or_prefill(*args: Any, **kwargs: Any) -> Any:
            metadata = kwargs.get("attn_metadata", args[5] if len(args) > 5 else None)
            decode = metadata is not None and metadata.max_query_len == 1
            kernel.sliding_window = window - fewer if decode else window
            try:
                return forward(*args, **kwargs)
            finally:
                kernel.sliding_window = window

        return decode_or_prefill

    wrap_forward(kernel, wrap)


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="attention-softcap",
        about="attention softcap of the trainer dropped or too wide",
        causes=("attention-softcap",),
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.05},
        applies=has_attention_softcap,
        expected_location=first_attention,
        plant=drop_softcap,
        options=eager,
    ),
    Fault(
        id="decode-window",
        about="decode of the engine sees fewer keys than its prefill",
        causes=("decode-prefill-divergence",),
        family="attention",
        side="infer",
        kind="plugin",
        severities={"plain": 16, "medium": 4, "slight": 1},
        applies=has_window,
        expected_location=first_window,
        engines=("vllm",),
        plant=narrow_decode_in_vllm,
    ),
    Fault(
        id="engine-attention-softcap",
        about="attention softcap of the engine dropped or too wide",
        causes=("attention-softcap",),
        family="attention",
        side="infer",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.05},
        applies=has_attention_softcap,
        expected_location=first_attention,
        engines=("vllm",),
        plant=drop_softcap_in_vllm,
    ),
    Fault(
        id="engine-sinks-dropped",
        about="attention sinks ignored by the engine's backend",
        causes=("attention-sinks-dropped",),
        family="attention",
        side="infer",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        applies=is_gpt_oss,
        expected_location=first_attention,
        engines=("vllm",),
        plant=drop_sinks_in_vllm,
    ),
    Fault(
        id="engine-window",
        about="sliding window of the engine a few keys too narrow",
        causes=("sliding-window",),
        family="attention",
        side="infer",
        kind="plugin",
        severities={"plain": 16, "medium": 4, "slight": 1},
        applies=has_window,
        expected_location=first_window,
        engines=("vllm",),
        plant=narrow_windows_in_vllm,
    ),
    Fault(
        id="scores-scaled",
        about="attention scores of the trainer times a constant",
        causes=("attention-scale",),
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 0.8, "medium": 0.95, "slight": 0.99},
        applies=has_no_yarn,
        expected_location=first_attention,
        plant=scale_scores,
    ),
    Fault(
        id="sinks-dropped",
        about="attention sinks ignored by the trainer's kernel",
        causes=("attention-sinks-dropped",),
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        applies=is_gpt_oss,
        expected_location=first_attention,
        plant=drop_sinks,
    ),
    Fault(
        id="sinks-dropped-layer",
        about="attention sinks ignored in one layer of the trainer",
        causes=("attention-sinks-dropped",),
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.1},
        applies=is_gpt_oss,
        expected_location=middle("self_attn"),
        plant=drop_sinks_of_heads,
    ),
    Fault(
        id="window-ignored",
        about="sliding window ignored by the trainer",
        causes=("sliding-window",),
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.01},
        applies=has_window,
        expected_location=first_window,
        plant=ignore_windows,
    ),
    Fault(
        id="window-ignored-layer",
        about="sliding window too wide in one layer of the trainer",
        causes=("sliding-window",),
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 1024, "medium": 16, "slight": 1},
        applies=has_window,
        expected_location=last_window,
        options=eager,
        plant=widen_last_window,
    ),
    Fault(
        id="window-off-by-one",
        about="sliding window of the trainer a few keys too wide",
        causes=("sliding-window",),
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 16, "medium": 4, "slight": 1},
        applies=has_window,
        expected_location=first_window,
        plant=widen_windows,
    ),
)
