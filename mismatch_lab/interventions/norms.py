"""Suspected defects of normalisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mismatch_lab.errors import NotApplicableError
from mismatch_lab.interventions.planting import (
    hooks,
    in_layers,
    text,
)
from mismatch_lab.interventions.rounding import float_dtype
from mismatch_lab.schema import Alteration

EPSILONS = ("variance_epsilon", "eps")


def norms(model: nn.Module, alteration: Alteration) -> list[tuple[Any, str]]:
    """RMS norms of the altered layers (None: the final one too), and their epsilon's attribute.

    Raises:
        NotApplicableError: there are none.
    """
    found = [
        (module, epsilon)
        for name, module in model.named_modules()
        for epsilon in EPSILONS
        if "RMSNorm" in type(module).__name__
        and hasattr(module, epsilon)
        and isinstance(getattr(module, "weight", None), Tensor)
        and in_layers(name, alteration)
    ]
    if not found:
        raise NotApplicableError("The model has no RMS norms in these layers.")
    return found


@contextmanager
def norm_dtype(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """RMS norms with every step rounded to a dtype, statistics included; `exact` rounds nothing."""
    value = text(alteration, "bfloat16")
    own = next(model.parameters()).dtype
    dtype = own if value == "exact" else float_dtype(value)
    handles = (
        module.register_forward_hook(_rounded_norm(getattr(module, name), _gain(module), dtype))
        for module, name in norms(model, alteration)
    )
    with hooks(handles):
        yield


def _rounded_norm(
    epsilon: float, gain: Tensor, dtype: torch.dtype
) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    narrow_gain = gain.to(dtype)

    def hook(_module: nn.Module, args: Any, output: Tensor) -> Tensor:
        x = args[0].to(dtype)
        variance = x.pow(2).mean(-1, keepdim=True)
        normed: Tensor = narrow_gain * (x * torch.rsqrt(variance + epsilon))
        return normed.to(output.dtype)

    return hook


def _gain(module: Any) -> Tensor:
    """What the norm multiplies by: its weight, or one more (Gemma). Told by trying it."""
    weight: Tensor = module.weight.data
    with torch.no_grad():
        came = module.forward(torch.ones_like(weight)).double()
    offset: Tensor = (came - weight.double()).mean().round()
    return weight + offset.to(weight.dtype)
