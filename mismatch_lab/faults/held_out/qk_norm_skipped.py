"""The trainer's attention leaves out the norms of queries and keys."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Config, Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, first_layer
from mismatch_lab.faults.modules import layers, share_of


def plant(model: Any, strength: float) -> None:
    """In the first `strength` share of the layers they pass through as they are."""
    for layer in share_of(layers(model), strength):
        for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
            norm.register_forward_hook(lambda _module, args, _output: args[0])


def has_qk_norm(model_type: str, config: Config) -> bool:
    """The configs do not say."""
    del config
    return model_type in ("olmoe", "qwen3", "qwen3_moe")


FAULT = Fault(
    id="qk-norm-skipped",
    about="norms of queries and keys skipped by the trainer",
    causes=(UNLISTED,),
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
    applies=has_qk_norm,
    expected_location=first_layer("self_attn"),
    plant=plant,
)
