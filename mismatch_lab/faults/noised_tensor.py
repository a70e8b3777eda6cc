"""One tensor of the engine is corrupt after a reload in pieces."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import middle, middle_layer
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import layers, self_attention

PART = "self_attn.o_proj"


def plant(model: Any, strength: float) -> None:
    """Noise of `strength` deviations on the output projection of the middle layer's attention."""
    import torch

    layer = layers(model)[middle_layer(model.config.to_dict())]
    weight = self_attention(layer).o_proj.weight.data
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    weight.add_(strength * weight.float().std() * noise.to(weight))


FAULT = Fault(
    id="noised-tensor",
    about="one projection of the engine holds other numbers",
    causes=("stale-tensor",),
    family="weights",
    side="infer",
    kind="plugin",
    severities={"plain": 0.5, "medium": 0.1, "slight": 0.02},
    expected_location=middle(PART),
    plant=plant,
)
