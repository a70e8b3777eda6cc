"""The engine takes a layer for one that shares keys and values with an earlier layer."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import middle, middle_layer
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED
from mismatch_lab.faults.modules import Attention, layers, wrap_attention

BACK = 2
"""Layers apart: those in between may have another window."""


def plant(model: Any, strength: float) -> None:
    """The middle layer reads `strength` of an earlier layer's keys and values."""
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


FAULT = Fault(
    id="layer-cache-shared",
    about="one layer of the engine attends to an earlier layer's keys and values",
    causes=(UNLISTED,),
    family="attention",
    side="infer",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.1, "slight": 0.01},
    expected_location=middle("self_attn"),
    engines=("hf",),
    plant=plant,
)
