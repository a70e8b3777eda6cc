"""The trainer's routers compute in bf16."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mismatch_lab.faults.architectures import first_router, is_moe
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import routers, share_of
from mismatch_lab.faults.routing import best, replace_router, weights_of

if TYPE_CHECKING:
    from torch import Tensor

    from mismatch_lab.faults.routing import Routed


def plant(model: Any, strength: float) -> None:
    """The first `strength` share of the routers."""
    for router in share_of(routers(model), strength):
        replace_router(router, partial(_route, router))


def _route(router: Any, hidden: Tensor) -> Routed:
    import torch
    from torch.nn import functional

    narrow = torch.bfloat16
    bias = getattr(router, "bias", None)
    logits = functional.linear(
        hidden.to(narrow), router.weight.to(narrow), None if bias is None else bias.to(narrow)
    ).to(hidden.dtype)
    chosen = best(router, logits)
    return logits, weights_of(router, logits, chosen).to(narrow).to(hidden.dtype), chosen


FAULT = Fault(
    id="router-bf16",
    about="routers of the trainer in bf16",
    causes=("router-precision",),
    family="precision",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
    applies=is_moe,
    expected_location=first_router,
    dtypes=("float32",),
    plant=plant,
)
