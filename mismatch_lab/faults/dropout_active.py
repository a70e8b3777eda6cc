"""The trainer scores with dropout switched on."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_attention
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import layers


def plant(model: Any, strength: float) -> None:
    """A share of the outputs of every attention block is zeroed, in every pass anew."""
    from torch.nn import functional

    def drop(_module: Any, _args: Any, output: Any) -> Any:
        return (functional.dropout(output[0], strength, training=True), *output[1:])

    for layer in layers(model):
        layer.self_attn.register_forward_hook(drop)


FAULT = Fault(
    id="dropout-active",
    about="dropout on in the trainer's scoring pass",
    causes=("dropout-active",),
    family="trainer",
    side="train",
    kind="plugin",
    severities={"plain": 0.1, "medium": 0.01, "slight": 0.001},
    expected_location=first_attention,
    plant=plant,
)
