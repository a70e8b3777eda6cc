"""A router kernel with large rounding errors: every router logit is a little off."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mismatch_lab.faults.architectures import first_router, is_moe
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import routers
from mismatch_lab.faults.routing import best, replace_router, router_logits, weights_of

if TYPE_CHECKING:
    from torch import Tensor

    from mismatch_lab.faults.routing import Routed


def plant(model: Any, strength: float) -> None:
    """Noise of `strength` times the logits' deviation, the same whenever the input is."""
    for router in routers(model):
        replace_router(router, partial(_route, router, strength))


def _route(router: Any, strength: float, hidden: Tensor) -> Routed:
    exact = router_logits(router, hidden)
    # A rounding error depends on the last bits of the input: the digits that are left of a large
    # multiple stand for them.
    digits = (1e3 * exact.double()).sin().to(exact.dtype)
    logits = exact + strength * exact.std(-1, keepdim=True) * digits
    chosen = best(router, logits)
    return logits, weights_of(router, logits, chosen), chosen


FAULT = Fault(
    id="router-noise",
    about="router logits of the trainer with rounding-like noise",
    causes=("router-precision", "routing-flips"),
    why_several="Noise of no known format: a router in too few bits and flips from numerics are "
    "the same observation.",
    family="precision",
    side="train",
    kind="plugin",
    severities={"plain": 0.3, "medium": 0.03, "slight": 0.005},
    applies=is_moe,
    expected_location=first_router,
    plant=plant,
)
