"""The engine multiplies in eight bits: inputs of its linears are rounded, weights are not."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, first_layer, round_inputs
from mismatch_lab.faults.modules import layers
from mismatch_lab.faults.rounding import scaled_rounded


def plant(model: Any, strength: str) -> None:
    """Inputs of the linears and experts of every layer, each token with a scale of its own."""
    for layer in layers(model):
        for name, module in layer.named_modules():
            if name.endswith(("_proj", "mlp.experts")):
                round_inputs(module, lambda hidden: scaled_rounded(hidden, strength))


FAULT = Fault(
    id="quantised-activations",
    about="inputs of the engine's linears quantised",
    causes=(UNLISTED,),
    family="precision",
    side="infer",
    kind="plugin",
    severities={"plain": "float8_e5m2", "medium": "float8_e4m3fn", "slight": "int8"},
    expected_location=first_layer("self_attn"),
    plant=plant,
)
