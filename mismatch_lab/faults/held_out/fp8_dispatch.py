"""The engine sends tokens to their experts in eight bits."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_experts, is_moe
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, round_inputs
from mismatch_lab.faults.modules import moe
from mismatch_lab.faults.rounding import scaled_rounded


def plant(model: Any, strength: str) -> None:
    """What reaches the experts is rounded, each token with a scale of its own."""
    for layer in moe(model):
        round_inputs(layer.mlp.experts, lambda hidden: scaled_rounded(hidden, strength))


FAULT = Fault(
    id="fp8-dispatch",
    about="inputs of the engine's experts in fp8",
    causes=(UNLISTED,),
    family="moe",
    side="infer",
    kind="plugin",
    severities={"plain": "float8_e5m2", "medium": "float8_e4m3fn", "slight": "int8"},
    applies=is_moe,
    expected_location=first_experts,
    plant=plant,
)
