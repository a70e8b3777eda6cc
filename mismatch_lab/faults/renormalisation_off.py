"""The trainer weighs the chosen experts by their share among all of them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mismatch_lab.faults.architectures import first_experts, is_moe
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import routers, share_of
from mismatch_lab.faults.routing import best, replace_router, router_logits

if TYPE_CHECKING:
    from torch import Tensor

    from mismatch_lab.faults.routing import Routed


def plant(model: Any, strength: float) -> None:
    """In the first `strength` share of the layers the weights of the chosen do not sum to 1."""
    for router in share_of(routers(model), strength):
        replace_router(router, partial(_route, router))


def _route(router: Any, hidden: Tensor) -> Routed:
    logits = router_logits(router, hidden)
    chosen = best(router, logits)
    return logits, logits.float().softmax(-1).gather(-1, chosen).to(logits.dtype), chosen


FAULT = Fault(
    id="renormalisation-off",
    about="weights of the chosen experts not renormalised in the trainer",
    causes=("router-renormalisation",),
    family="moe",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
    applies=is_moe,
    expected_location=first_experts,
    plant=plant,
)
