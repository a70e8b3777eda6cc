"""The engine's loader fills gate and up of one layer in the wrong order."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import middle
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, gate_up, is_dense, middle_of


def plant(model: Any, strength: float) -> None:
    """In the middle layer, in the first `strength` share of the rows (one rank's shard)."""
    gate, up = gate_up(middle_of(model).mlp)
    rows = max(1, round(strength * len(gate)))
    kept = gate[:rows].clone()
    gate[:rows] = up[:rows]
    up[:rows] = kept


FAULT = Fault(
    id="gate-up-swapped",
    about="gate and up of one layer of the engine swapped",
    causes=(UNLISTED, "stale-tensor"),
    why_several="tensors then hold other numbers than the checkpoint's",
    family="weights",
    side="infer",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.25, "slight": 0.03125},
    applies=is_dense,
    expected_location=middle("mlp"),
    plant=plant,
)
