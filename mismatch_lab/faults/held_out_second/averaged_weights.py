"""The weights published to the engine are a running average, not the current ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.checkpoints import old_parameters
from mismatch_lab.faults.held_out.parts import UNLISTED

DECAY = 0.5
"""Share of the weights before the update."""


def update(model: Any, before: Path) -> None:
    """Every tensor goes only a part of the update's way."""
    for name, old in old_parameters(model, before).items():
        current = model.get_parameter(name).data
        current.copy_(current.float().lerp(old.float(), DECAY))


FAULT = Fault(
    id="averaged-weights",
    about="averaged weights published to the engine in place of the current ones",
    causes=(UNLISTED, "stale-weights"),
    why_several="an average over steps lags behind in every tensor, at no step's weights",
    family="weights",
    side="sync",
    kind="update",
    severities={"plain": 0.1, "medium": 0.02, "slight": 0.004},
    engines=("hf",),
    update=update,
)
