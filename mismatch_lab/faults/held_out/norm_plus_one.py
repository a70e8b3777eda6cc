"""The trainer's norms take their weights for deviations from 1."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, first_layer
from mismatch_lab.faults.modules import norms, share_of


def plant(model: Any, strength: float) -> None:
    """1 + weight in the first `strength` share of the norms (Gemma's: weight alone)."""
    for norm in share_of(norms(model), strength):
        norm.weight.data.add_(-1.0 if type(norm).__name__.startswith("Gemma") else 1.0)


FAULT = Fault(
    id="norm-plus-one",
    about="weights of the trainer's norms off by one",
    causes=(UNLISTED, "stale-tensor"),
    why_several="tensors then hold other numbers than the checkpoint's",
    family="weights",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.25, "slight": 0.1},
    expected_location=first_layer("input_layernorm"),
    plant=plant,
)
