"""The trainer's model was built without the biases of queries, keys and values."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Config, Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, first_layer
from mismatch_lab.faults.modules import layers, share_of


def plant(model: Any, strength: float) -> None:
    """They are zero in the first `strength` share of the layers."""
    for layer in share_of(layers(model), strength):
        attention = layer.self_attn
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.bias.data.zero_()


def has_biases(model_type: str, config: Config) -> bool:
    """Qwen2 always has them and does not say so."""
    return model_type == "qwen2" or bool(config.get("attention_bias"))


FAULT = Fault(
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
    plant=plant,
)
