"""Rounding to formats with fewer bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def rounded(values: Tensor, form: str) -> Tensor:
    """The values as `form` holds them, in their own dtype again.

    Args:
        values: any shape.
        form: a torch dtype (`bfloat16`, `float8_e4m3fn`, …: unscaled), or `int8` and `int4`:
            symmetric integers, one scale for each row (last axis).
    """
    import torch

    if form in ("int8", "int4"):
        largest = 127 if form == "int8" else 7
        scale = values.abs().amax(-1, keepdim=True).clamp(min=1e-12) / largest
        return (values / scale).round() * scale
    if form.startswith("float8"):
        limit = torch.finfo(getattr(torch, form)).max
        values = values.clamp(-limit, limit)  # an unclamped e4m3 overflows to NaN
    return values.to(getattr(torch, form)).to(values.dtype)


def scaled_rounded(values: Tensor, form: str) -> Tensor:
    """The same with each row scaled to fill an fp8 format's range, as fp8 weights are stored."""
    import torch

    if not form.startswith("float8"):
        return rounded(values, form)
    scale = (
        values.abs().amax(-1, keepdim=True).clamp(min=1e-12) / torch.finfo(getattr(torch, form)).max
    )
    return rounded(values / scale, form) * scale
