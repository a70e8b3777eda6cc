"""The trainer carries the residual stream from layer to layer in half precision."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, rescale_output
from mismatch_lab.faults.modules import layers
from mismatch_lab.faults.rounding import rounded


def plant(model: Any, strength: str) -> None:
    """What leaves a layer is rounded to the dtype `strength`."""
    for layer in layers(model):
        rescale_output(layer, lambda _given, output: rounded(output, strength))


FAULT = Fault(
    id="residual-bf16",
    about="residual stream of the trainer in bf16",
    causes=(UNLISTED,),
    family="precision",
    side="train",
    kind="plugin",
    severities={"plain": "float8_e4m3fn", "medium": "bfloat16", "slight": "float16"},
    expected_location=lambda _config: "model.layers.0",
    dtypes=("float32",),
    plant=plant,
)
