"""The gradient pass (recomputed under checkpointing) picks other experts than the scoring pass."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mismatch_lab.faults.architectures import first_experts, is_moe
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import routers
from mismatch_lab.faults.routing import (
    best,
    near_ties_swapped,
    replace_router,
    router_logits,
    weights_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from mismatch_lab.faults.routing import Routed


def plant(model: Any, strength: float) -> None:
    """In training mode near-ties within `strength` deviations fall the other way."""
    for router in routers(model):
        replace_router(router, partial(_route, router, strength))


def _route(router: Any, margin: float, hidden: Tensor) -> Routed:
    logits = router_logits(router, hidden)
    gradient_pass = router.training
    chosen = near_ties_swapped(router, logits, margin) if gradient_pass else best(router, logits)
    return logits, weights_of(router, logits, chosen), chosen


FAULT = Fault(
    id="two-pass-training",
    about="experts chosen in the trainer's gradient pass differ from its scoring pass",
    causes=("routing-two-pass",),
    family="moe",
    side="train",
    kind="plugin",
    severities={"plain": 0.3, "medium": 0.05, "slight": 0.01},
    applies=is_moe,
    expected_location=first_experts,
    plant=plant,
)
