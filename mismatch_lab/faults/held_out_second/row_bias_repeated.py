"""Every tensor-parallel rank of the trainer adds the bias of attention's output projection."""

from __future__ import annotations

from functools import partial
from typing import Any

from mismatch_lab.faults.base import Config, Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, first_layer
from mismatch_lab.faults.modules import layers


def plant(model: Any, strength: int) -> None:
    """The sum over `strength` ranks holds it as many times."""
    for layer in layers(model):
        layer.self_attn.o_proj.register_forward_hook(partial(_repeat, strength))


def _repeat(ranks: int, projection: Any, _args: Any, output: Any) -> Any:
    return output + (ranks - 1) * projection.bias


def has_output_bias(model_type: str, config: Config) -> bool:
    """Qwen2 has biases on the other three only."""
    return bool(config.get("use_bias" if model_type == "starcoder2" else "attention_bias"))


FAULT = Fault(
    id="row-bias-repeated",
    about="output bias of the trainer's attention added once by every rank",
    causes=(UNLISTED,),
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": 8, "medium": 4, "slight": 2},
    applies=has_output_bias,
    expected_location=first_layer("self_attn"),
    plant=plant,
)
