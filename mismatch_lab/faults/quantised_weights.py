"""The engine serves quantised weights, the trainer the originals."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_attention
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.rounding import scaled_rounded

QUANTISED = ("_proj.weight", "_proj", "w13_weight", "w2_weight")
"""Linears and experts, by the ends of their names; norms, routers, embedding and head are not."""


def plant(model: Any, strength: str) -> None:
    """Each output row of the linears rounded to a format with a scale of its own."""
    for name, parameter in model.named_parameters():
        if name.endswith(QUANTISED):
            parameter.data.copy_(scaled_rounded(parameter.data, strength))


FAULT = Fault(
    id="quantised-weights",
    about="weights of the engine quantised",
    causes=("weight-quantisation",),
    family="weights",
    side="infer",
    kind="plugin",
    severities={"plain": "int4", "medium": "float8_e4m3fn", "slight": "int8"},
    expected_location=first_attention,
    plant=plant,
)
