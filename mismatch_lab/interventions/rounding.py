"""Tensors as they come back from a narrower format."""

from __future__ import annotations

import torch
from torch import Tensor

from mismatch_lab.errors import InputError

FLOATS = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}

INTEGER_LIMITS = {"int8": 127, "int4": 7}
"""Symmetric: the most negative code is not used."""

TF32_IGNORES = 13
"""Lowest bits of a float32."""


def check_format(name: str) -> None:
    """Raises InputError unless `name` is a float or a scaled integer."""
    if name not in INTEGER_LIMITS:
        float_dtype(name)


def float_dtype(name: str) -> torch.dtype:
    """The torch dtype of that name.

    Raises:
        InputError: there is none.
    """
    if name not in FLOATS:
        raise InputError(f"Unknown dtype {name!r}.", f"Available: {', '.join(FLOATS)}.")
    return FLOATS[name]


def rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor`, in its own dtype, with values that `dtype` can hold; too large ones saturate."""
    limit = torch.finfo(dtype).max
    if limit < torch.finfo(tensor.dtype).max:
        tensor = tensor.clamp(-limit, limit)
    return tensor.to(dtype).to(tensor.dtype)


def truncated(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """As `rounded`, but to the next number of an fp8 `dtype` towards zero, not to the nearest."""
    near = tensor.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype)
    beyond = near.to(tensor.dtype).abs() > tensor.abs()
    # Magnitudes are ordered as their codes are, so the one below is the code below.
    below = (near.view(torch.uint8) - beyond.to(torch.uint8)).view(dtype)
    return below.to(tensor.dtype)


def tf32(tensor: Tensor, *, cut: bool = False) -> Tensor:
    """float32 `tensor` with the 10 bits of mantissa that tensor cores take of it (TF32).

    Args:
        tensor: in float32.
        cut: towards zero, as where they are handed float32; to the nearest, ties away from zero,
            as `cvt.rna.tf32.f32` does for them (PTX ISA, "cvt").
    """
    bits = tensor.contiguous().view(torch.int32)
    kept = bits if cut else bits + (1 << TF32_IGNORES - 1)
    return (kept & -(1 << TF32_IGNORES)).view(torch.float32)


def scaled_rounded(tensor: Tensor, name: str, dims: tuple[int, ...] | None = None) -> Tensor:
    """`tensor` divided by a scale, rounded to format `name`, and multiplied by it again.

    The scale takes the largest magnitude over `dims` (None: of all) to the format's largest.

    Raises:
        InputError: no such format.
    """
    wide = tensor.double()
    every = tuple(range(wide.dim())) if dims is None else dims
    largest = wide.abs().amax(dim=every, keepdim=True)
    if name in INTEGER_LIMITS:
        scale = (largest / INTEGER_LIMITS[name]).where(largest > 0, torch.ones_like(largest))
        return ((wide / scale).round() * scale).to(tensor.dtype)
    dtype = float_dtype(name)
    scale = (largest / torch.finfo(dtype).max).where(largest > 0, torch.ones_like(largest))
    # Through fp32 as engines do it: a cast from float64 may round twice.
    return (rounded((wide / scale).float(), dtype).double() * scale).to(tensor.dtype)


def grouped_rounded(tensor: Tensor, name: str, group: int) -> Tensor:
    """As `scaled_rounded`, with one scale for `group` neighbours of the last dimension.

    A last group that is not full has a scale of its own.
    """
    parts = torch.split(tensor, group, dim=-1)
    return torch.cat([scaled_rounded(part, name, (-1,)) for part in parts], dim=-1)
