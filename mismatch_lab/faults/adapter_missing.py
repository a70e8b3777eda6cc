"""LoRA training whose adapter never reaches the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mismatch_lab.faults.architectures import first_attention
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.checkpoints import ADAPTED, put_back, read_tensors


def update(model: Any, before: Path) -> None:
    """The adapted projections are those of the base."""
    put_back(model, read_tensors(before, lambda name: name.endswith(ADAPTED)).items())


FAULT = Fault(
    id="adapter-missing",
    about="the engine samples from the base, without the adapter",
    causes=("adapter-not-delivered",),
    family="weights",
    side="sync",
    kind="update",
    severities={"plain": 0.3, "medium": 0.05, "slight": 0.01},
    expected_location=first_attention,
    update=update,
    low_rank=True,
)
