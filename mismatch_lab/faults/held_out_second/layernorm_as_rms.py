"""The trainer's fused norm is an RMSNorm, the model's a LayerNorm: the mean stays in."""

from __future__ import annotations

from functools import partial
from typing import Any

from mismatch_lab.faults.base import Config, Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, first_layer
from mismatch_lab.faults.modules import norms


def plant(model: Any, strength: float) -> None:
    """In every norm `strength` of the mean is not subtracted."""
    for norm in norms(model):
        norm.register_forward_hook(partial(_norm, strength))


def _norm(kept: float, norm: Any, args: Any, output: Any) -> Any:
    wide = args[0].float()
    wide = wide - (1 - kept) * wide.mean(-1, keepdim=True)
    epsilon = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    wide = wide * (wide.square().mean(-1, keepdim=True) + epsilon).rsqrt() * norm.weight.float()
    bias = getattr(norm, "bias", None)
    return (wide if bias is None else wide + bias.float()).to(output.dtype)


def has_layer_norms(model_type: str, config: Config) -> bool:
    """Not RMSNorms."""
    del config
    return model_type in ("starcoder2", "cohere")


FAULT = Fault(
    id="layernorm-as-rms",
    about="LayerNorms of the trainer computed as RMSNorms",
    causes=(UNLISTED,),
    family="precision",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.3, "slight": 0.05},
    applies=has_layer_norms,
    expected_location=first_layer("input_layernorm"),
    plant=plant,
)
