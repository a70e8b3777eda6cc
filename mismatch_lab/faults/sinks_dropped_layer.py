"""The trainer's kernel ignores the sinks of some heads of one layer (one rank's shard)."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import is_gpt_oss, middle, middle_layer
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import Attention, layers, wrap_attention
from mismatch_lab.faults.sinks_dropped import sinkless


def plant(model: Any, strength: float) -> None:
    """In the middle layer, the first `strength` share of the heads."""

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


FAULT = Fault(
    id="sinks-dropped-layer",
    about="attention sinks ignored in one layer of the trainer",
    causes=("attention-sinks-dropped",),
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.1},
    applies=is_gpt_oss,
    expected_location=middle("self_attn"),
    plant=plant,
)
