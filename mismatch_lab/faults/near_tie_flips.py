"""Near-ties between experts fall the other way in the trainer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mismatch_lab.faults.architectures import first_experts, is_moe
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import routers
from mismatch_lab.faults.routing import (
    near_ties_swapped,
    replace_router,
    router_logits,
    weights_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from mismatch_lab.faults.routing import Routed


def plant(model: Any, strength: float) -> None:
    """The last expert chosen and the first one not, within `strength` deviations, change places."""
    for router in routers(model):
        replace_router(router, partial(_route, router, strength))


def _route(router: Any, margin: float, hidden: Tensor) -> Routed:
    logits = router_logits(router, hidden)
    chosen = near_ties_swapped(router, logits, margin)
    return logits, weights_of(router, logits, chosen), chosen


FAULT = Fault(
    id="near-tie-flips",
    about="near-ties between experts resolved the other way in the trainer",
    causes=("routing-flips",),
    family="moe",
    side="train",
    kind="plugin",
    severities={"plain": 0.3, "medium": 0.05, "slight": 0.01},
    applies=is_moe,
    expected_location=first_experts,
    plant=plant,
)
