"""Suspected defects of routers: how logits become chosen experts and their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mismatch_lab.errors import NotApplicableError
from mismatch_lab.interventions.planting import (
    factor,
    hooks,
    in_layers,
    text,
)
from mismatch_lab.interventions.rounding import float_dtype, rounded
from mismatch_lab.schema import Alteration

Routing = tuple[Tensor, Tensor, Tensor]
"""[n, E] logits, [n, K] weights and [n, K] ids of the chosen experts."""


def route(logits: Tensor, top_k: int, normalised: bool) -> Routing:
    """Softmax over all experts, the best chosen, their weights made to add up to 1 or not.

    Normalised, it is also the softmax over the chosen ones alone (GPT-OSS).
    """
    weights, chosen = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float)).topk(
        top_k, dim=-1
    )
    if normalised:
        weights = weights / weights.sum(-1, keepdim=True)
    return logits, weights.to(logits.dtype), chosen


@contextmanager
def norm_topk(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Weights of the chosen experts made to add up to 1 where they are not, and the reverse."""
    with _rerouted(
        model,
        alteration,
        lambda router, x: route(_logits(router, x), router.top_k, not _normalised(router)),
    ):
        yield


@contextmanager
def router_dtype(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Router logits computed in a dtype: weights and input rounded, and so are the logits."""
    dtype = float_dtype(text(alteration, "bfloat16"))
    if any(router.weight.dtype == dtype for router in _routers(model, alteration)):
        raise NotApplicableError(f"The routers run in {dtype} already.")

    def narrow(router: Any, x: Tensor) -> Routing:
        bias = getattr(router, "bias", None)
        logits = functional.linear(
            rounded(x, dtype),
            rounded(router.weight, dtype),
            None if bias is None else rounded(bias, dtype),
        )
        return route(rounded(logits, dtype), router.top_k, _normalised(router))

    with _rerouted(model, alteration, narrow):
        yield


@contextmanager
def routed_scale(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Weights of the chosen experts times a factor."""
    by = factor(alteration)

    def scale(_router: nn.Module, _args: Any, output: Routing) -> Routing:
        logits, weights, chosen = output
        return logits, weights * by, chosen

    routers = _routers(model, alteration)
    with hooks(router.register_forward_hook(scale) for router in routers):
        yield


@contextmanager
def _rerouted(
    model: nn.Module, alteration: Alteration, how: Callable[[Any, Tensor], Routing]
) -> Iterator[None]:
    """Routers answer with `how(router, [n, D] input)`."""
    routers = _routers(model, alteration)
    for router in routers:
        _check_known(router)

    def hook(router: nn.Module, args: Any, output: Routing) -> Routing:
        logits, weights, chosen = how(router, args[0].reshape(-1, args[0].shape[-1]))
        return logits, weights.to(output[1].dtype), chosen

    with hooks(router.register_forward_hook(hook) for router in routers):
        yield


def _routers(model: nn.Module, alteration: Alteration) -> list[Any]:
    found = [
        module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in ("router", "gate")
        and hasattr(module, "top_k")
        and isinstance(getattr(module, "weight", None), Tensor)
        and in_layers(name, alteration)
    ]
    if not found:
        raise NotApplicableError("The model has no routers in these layers.")
    return found


def _normalised(router: Any) -> bool:
    return bool(getattr(router, "norm_topk_prob", True))


def _logits(router: Any, x: Tensor) -> Tensor:
    return functional.linear(x, router.weight, getattr(router, "bias", None))


def _check_known(router: Any) -> None:
    """Raises NotApplicableError unless `route` says what the router itself says."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, router.weight.shape[1], generator=generator).to(router.weight)
    with torch.no_grad():
        output = router.forward(x)  # not the hooks of another alteration
        ours = route(_logits(router, x), router.top_k, _normalised(router))
    tolerance = 1e-2 if x.dtype.itemsize < 4 else 1e-5
    if not (isinstance(output, tuple) and len(output) == 3) or not torch.allclose(
        output[1].double(), ours[1].double(), rtol=0, atol=tolerance
    ):
        raise NotApplicableError(f"{type(router).__name__} routes in a way that is not known here.")
