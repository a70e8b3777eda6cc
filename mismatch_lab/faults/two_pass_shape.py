"""The trainer's router sums in another order for another batch shape, so near-ties fall anew."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mismatch_lab.faults.architectures import first_experts, is_moe
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import routers
from mismatch_lab.faults.routing import best, replace_router, router_logits, weights_of

if TYPE_CHECKING:
    from torch import Tensor

    from mismatch_lab.faults.routing import Routed


def plant(model: Any, strength: float) -> None:
    """Experts are chosen by logits with errors that depend on the number of tokens at once."""
    for router in routers(model):
        replace_router(router, partial(_route, router, strength))


def _route(router: Any, strength: float, hidden: Tensor) -> Routed:
    logits = router_logits(router, hidden)
    errors = (1e3 * logits.double() + len(hidden)).sin().to(logits.dtype)
    chosen = best(router, logits + strength * logits.std(-1, keepdim=True) * errors)
    return logits, weights_of(router, logits, chosen), chosen


FAULT = Fault(
    id="two-pass-shape",
    about="experts chosen in the trainer depend on the micro-batch",
    causes=("routing-two-pass",),
    family="moe",
    side="train",
    kind="plugin",
    severities={"plain": 0.3, "medium": 0.05, "slight": 0.01},
    applies=is_moe,
    expected_location=first_experts,
    plant=plant,
)
