"""A weight sync forgets one tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mismatch_lab.faults.architectures import middle, middle_layer
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.checkpoints import model_config, put_back, read_tensors

PART = "self_attn.k_proj.weight"


def update(model: Any, before: Path) -> None:
    """The key projection of the middle layer stays as it was."""
    name = f"model.layers.{middle_layer(model_config(before))}.{PART}"
    put_back(model, read_tensors(before, lambda other: other == name).items())


FAULT = Fault(
    id="stale-tensor",
    about="one tensor of the engine left out of the weight sync",
    causes=("stale-tensor",),
    family="weights",
    side="sync",
    kind="update",
    severities={"plain": 0.5, "medium": 0.1, "slight": 0.02},
    expected_location=middle(PART),
    update=update,
)
