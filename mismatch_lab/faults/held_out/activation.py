"""The trainer's MLPs have the activation of another model."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, first_layer
from mismatch_lab.faults.modules import layers, share_of


def plant(model: Any, strength: float) -> None:
    """GELU for SiLU, SiLU for GPT-OSS's sharper one and for GELU, in a share of the layers."""
    from torch import nn

    for layer in share_of(layers(model), strength):
        block = getattr(layer.mlp, "experts", layer.mlp)
        if hasattr(block, "alpha"):
            block.alpha = 1.0
        for name in ("act_fn", "activation_fn"):
            if hasattr(block, name):
                silu = "SiLU" in type(getattr(block, name)).__name__
                setattr(block, name, nn.GELU() if silu else nn.SiLU())


FAULT = Fault(
    id="activation",
    about="wrong activation in the MLPs of the trainer",
    causes=(UNLISTED,),
    family="mlp",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
    expected_location=first_layer("mlp"),
    plant=plant,
)
