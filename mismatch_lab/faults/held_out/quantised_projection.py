"""One projection of the engine was left quantised by a partial reload."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import middle
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import middle_of
from mismatch_lab.faults.modules import self_attention
from mismatch_lab.faults.rounding import scaled_rounded


def plant(model: Any, strength: str) -> None:
    """The output projection of the middle layer's attention, rounded with a scale for each row."""
    weight = self_attention(middle_of(model)).o_proj.weight.data
    weight.copy_(scaled_rounded(weight, strength))


FAULT = Fault(
    id="quantised-projection",
    about="one projection of the engine quantised",
    causes=("weight-quantisation", "stale-tensor"),
    why_several="a quantised tensor holds other numbers",
    family="weights",
    side="infer",
    kind="plugin",
    severities={"plain": "int4", "medium": "float8_e4m3fn", "slight": "int8"},
    expected_location=middle("self_attn.o_proj"),
    plant=plant,
)
