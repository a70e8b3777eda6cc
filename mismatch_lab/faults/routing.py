"""What a transformers router does with its logits, taken apart so that a step can go wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    Routed = tuple[Tensor, Tensor, Tensor]
    """(logits [N, E], weights of the chosen [N, K], chosen [N, K]) as routers return them."""


def replace_router(router: Any, route: Callable[[Tensor], Routed]) -> None:
    """Put `route`, a function of [N, D] hidden states, in the place of a router's forward."""
    router.forward = lambda hidden: route(hidden.reshape(-1, hidden.shape[-1]))


def router_logits(router: Any, hidden: Tensor) -> Tensor:
    """[N, E] logits of [N, D] hidden states."""
    from torch.nn import functional

    return functional.linear(hidden, router.weight, getattr(router, "bias", None))


def weights_of(router: Any, logits: Tensor, chosen: Tensor) -> Tensor:
    """[N, K] weights of the chosen experts; GPT-OSS's softmax is over the chosen alone."""
    if getattr(router, "norm_topk_prob", True):
        return logits.gather(-1, chosen).float().softmax(-1).to(logits.dtype)
    return logits.float().softmax(-1).gather(-1, chosen).to(logits.dtype)


def best(router: Any, logits: Tensor) -> Tensor:
    """[N, K] the experts with the largest logits, best first."""
    return logits.topk(router.top_k, dim=-1).indices


def near_ties_swapped(router: Any, logits: Tensor, margin: float) -> Tensor:
    """[N, K] the best experts, the last of them exchanged for the next one where both logits are
    within `margin` standard deviations of the token's logits of each other.
    """
    import torch

    top, order = logits.topk(router.top_k + 1, dim=-1)
    close = top[:, -2] - top[:, -1] < margin * logits.std(-1)
    last = torch.where(close, order[:, -1], order[:, -2])
    return torch.cat([order[:, :-2], last[:, None]], dim=-1)
