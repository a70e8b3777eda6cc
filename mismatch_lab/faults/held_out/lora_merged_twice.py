"""The engine merges an adapter into weights that hold it already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mismatch_lab.faults.architectures import first_attention
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.checkpoints import ADAPTED, read_tensors
from mismatch_lab.faults.held_out.parts import UNLISTED


def update(model: Any, before: Path) -> None:
    """The adapted projections are as far from the base again."""
    state = model.state_dict()
    for name, base in read_tensors(before, lambda name: name.endswith(ADAPTED)).items():
        merged = state[name]
        merged.copy_(2 * merged.float() - base.float())


FAULT = Fault(
    id="lora-merged-twice",
    about="adapter merged twice into the engine's weights",
    causes=(UNLISTED,),
    family="weights",
    side="sync",
    kind="update",
    severities={"plain": 0.3, "medium": 0.05, "slight": 0.01},
    expected_location=first_attention,
    engines=("hf",),
    update=update,
    low_rank=True,
)
