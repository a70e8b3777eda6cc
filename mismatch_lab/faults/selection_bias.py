"""A bias that only selects experts (load balancing) is there on one side alone."""

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
    """Experts are chosen by logit and bias, and weighed by logit alone."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for router in routers(model):
        bias = strength * torch.randn(len(router.weight), generator=generator)
        replace_router(router, partial(_route, router, bias))


def _route(router: Any, bias: Tensor, hidden: Tensor) -> Routed:
    logits = router_logits(router, hidden)
    chosen = best(router, logits + bias.to(logits))
    return logits, weights_of(router, logits, chosen), chosen


FAULT = Fault(
    id="selection-bias",
    about="experts of the trainer selected with a bias that the engine lacks",
    causes=("router-bias",),
    family="moe",
    side="train",
    kind="plugin",
    severities={"plain": 0.5, "medium": 0.1, "slight": 0.01},
    applies=is_moe,
    expected_location=first_experts,
    plant=plant,
)
