"""The trainer's config has another number of experts for each token."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_experts, is_moe
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED
from mismatch_lab.faults.modules import routers, share_of


def plant(model: Any, strength: float) -> None:
    """One expert less (strength below 0) or more, in a share of the layers."""
    for router in share_of(routers(model), abs(strength)):
        router.top_k += 1 if strength > 0 else -1


FAULT = Fault(
    id="router-top-k",
    about="trainer with one expert too few or too many for each token",
    causes=(UNLISTED,),
    family="moe",
    side="train",
    kind="plugin",
    severities={"plain": -1.0, "medium": 1.0, "slight": 0.25},
    applies=is_moe,
    expected_location=first_experts,
    plant=plant,
)
