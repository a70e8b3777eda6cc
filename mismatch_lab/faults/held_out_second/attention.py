"""Attention: keys that are not seen, or another layer's; a bias added by every rank."""

from __future__ import annotations

from functools import partial
from typing import Any

from mismatch_lab.faults.architectures import middle, middle_layer
from mismatch_lab.faults.base import Config, Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, first_layer
from mismatch_lab.faults.modules import Attention, layers, wrap_attention


def hide_first_keys(model: Any, strength: int) -> None:
    """The trainer's kernel starts each sequence some keys late: its offsets are wrong.

    No token beyond the first `strength` of a row sees these.
    """
    wrap_attention(layers(model), partial(_late, strength))


def _late(lost: int, attention: Attention) -> Attention:
    def late(module: Any, q: Any, k: Any, v: Any, mask: Any, **options: Any) -> Any:
        import torch

        if mask is None:
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
            mask = mask.tril(k.shape[2] - q.shape[2])[None, None]
        mask = mask.clone()
        mask[:, :, lost:, :lost] = False if mask.dtype == torch.bool else torch.finfo(q.dtype).min
        output: tuple[Any, Any] = attention(module, q, k, v, mask, **options)
        return output

    return late


BACK = 2
"""Layers apart: those in between may have another window."""


def share_layer_cache(model: Any, strength: float) -> None:
    """The engine takes a layer for one that shares keys and values with an earlier layer.

    The middle layer reads `strength` of an earlier layer's keys and values.
    """
    target = middle_layer(model.config.to_dict())
    earlier: list[Any] = []

    def keep(attention: Attention) -> Attention:
        def keeping(module: Any, q: Any, k: Any, v: Any, *args: Any, **options: Any) -> Any:
            earlier[:] = [k, v]
            output: tuple[Any, Any] = attention(module, q, k, v, *args, **options)
            return output

        return keeping

    def share(attention: Attention) -> Attention:
        def shared(module: Any, q: Any, k: Any, v: Any, *args: Any, **options: Any) -> Any:
            k, v = (own.lerp(other, strength) for own, other in zip((k, v), earlier, strict=True))
            output: tuple[Any, Any] = attention(module, q, k, v, *args, **options)
            return output

        return shared

    wrap_attention([layers(model)[target - BACK]], keep)
    wrap_attention([layers(model)[target]], share)


def repeat_row_bias(model: Any, strength: int) -> None:
    """Every tensor-parallel rank of the trainer adds the bias of attention's output projection.

    The sum over `strength` ranks holds it as many times.
    """
    for layer in layers(model):
        layer.self_attn.o_proj.register_forward_hook(partial(_repeat, strength))


def _repeat(ranks: int, projection: Any, _args: Any, output: Any) -> Any:
    return output + (ranks - 1) * projection.bias


def has_output_bias(model_type: str, config: Config) -> bool:
    """Qwen2 has biases on the other three only."""
    return bool(config.get("use_bias" if model_type == "starcoder2" else "attention_bias"))


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="first-keys-unseen",
        about="first keys of each sequence left out of the trainer's attention",
        causes=(UNLISTED,),
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 16, "medium": 4, "slight": 1},
        expected_location=first_layer("self_attn"),
        plant=hide_first_keys,
    ),
    Fault(
        id="layer-cache-shared",
        about="one layer of the engine attends to an earlier layer's keys and values",
        causes=(UNLISTED,),
        family="attention",
        side="infer",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.1, "slight": 0.01},
        expected_location=middle("self_attn"),
        engines=("hf",),
        plant=share_layer_cache,
    ),
    Fault(
        id="row-bias-repeated",
        about="output bias of the trainer's attention added once by every rank",
        causes=(UNLISTED,),
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 8, "medium": 4, "slight": 2},
        applies=has_output_bias,
        expected_location=first_layer("self_attn"),
        plant=repeat_row_bias,
    ),
)
