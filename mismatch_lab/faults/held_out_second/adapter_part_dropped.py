"""The engine takes an adapter for queries, keys and values only, and ignores the rest of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.checkpoints import put_back, read_tensors
from mismatch_lab.faults.held_out.parts import first_layer

PART = "self_attn.o_proj.weight"


def update(model: Any, before: Path) -> None:
    """The output projections of attention are those of the base."""
    put_back(model, read_tensors(before, lambda name: name.endswith(PART)).items())


FAULT = Fault(
    id="adapter-part-dropped",
    about="adapter of the output projections ignored by the engine",
    causes=("stale-tensor", "adapter-not-delivered"),
    why_several="a part of an adapter that does not arrive leaves some tensors old",
    family="weights",
    side="sync",
    kind="update",
    severities={"plain": 0.5, "medium": 0.1, "slight": 0.02},
    expected_location=first_layer("self_attn.o_proj"),
    engines=("hf",),
    update=update,
    low_rank=True,
)
