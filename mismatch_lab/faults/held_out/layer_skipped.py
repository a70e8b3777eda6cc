"""The trainer leaves out one layer, or what is added of it is scaled."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import middle_layer
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, middle_of, rescale_output


def plant(model: Any, strength: float) -> None:
    """What the middle layer adds to its input is less by a share of `strength`."""

    def less(given: Any, output: Any) -> Any:
        return given + (1 - strength) * (output - given)

    rescale_output(middle_of(model), less)


FAULT = Fault(
    id="layer-skipped",
    about="one layer of the trainer skipped or scaled",
    causes=(UNLISTED,),
    family="trainer",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.1, "slight": 0.01},
    expected_location=lambda config: f"model.layers.{middle_layer(config)}",
    plant=plant,
)
