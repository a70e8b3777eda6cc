"""The weight sync does not happen: the engine stays one update behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.checkpoints import put_back_all


def update(model: Any, before: Path) -> None:
    """Every tensor stays as it was."""
    put_back_all(model, before)


FAULT = Fault(
    id="stale-weights",
    about="no tensor of the engine follows the update",
    causes=("stale-weights",),
    family="weights",
    side="sync",
    kind="update",
    severities={"plain": 0.05, "medium": 0.01, "slight": 0.002},
    update=update,
)
