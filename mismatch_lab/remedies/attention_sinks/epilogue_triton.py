"""`epilogue` as two Triton kernels: each reads `out` once and writes it at most once.

A program takes a block of tokens of one head, so that loads of `lse` [H, T] are contiguous.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_T = 64


@triton.jit  # type: ignore[untyped-decorator]
def _add_sinks(  # type: ignore[no-untyped-def]
    out,
    lse,
    sinks,
    with_sinks,
    tokens,
    stride_t,
    stride_h,
    width: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    head = tl.program_id(1).to(tl.int64)
    t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    d = tl.arange(0, BLOCK_D)
    inside = t < tokens
    before = tl.load(lse + head * tokens + t, mask=inside, other=0.0)
    sink = tl.load(sinks + head).to(before.dtype)
    largest = tl.maximum(before, sink)
    after = largest + tl.log(tl.exp(before - largest) + tl.exp(sink - largest))
    tl.store(with_sinks + head * tokens + t, after, mask=inside)
    place = out + t[:, None] * stride_t + head * stride_h + d[None, :]
    within = inside[:, None] & (d < width)[None, :]
    value = tl.load(place, mask=within, other=0.0).to(before.dtype)
    value = value * tl.exp(before - after)[:, None]
    tl.store(place, value.to(out.dtype.element_ty), mask=within)


@triton.jit  # type: ignore[untyped-decorator]
def _sink_gradient(  # type: ignore[no-untyped-def]
    dout,
    out,
    lse,
    sinks,
    parts,
    tokens,
    heads,
    dout_stride_t,
    dout_stride_h,
    stride_t,
    stride_h,
    width: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    head = tl.program_id(1).to(tl.int64)
    t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    d = tl.arange(0, BLOCK_D)
    inside = t < tokens
    within = inside[:, None] & (d < width)[None, :]
    total = tl.load(lse + head * tokens + t, mask=inside, other=float("inf"))
    weight = tl.exp(tl.load(sinks + head).to(total.dtype) - total)
    grad_place = dout + t[:, None] * dout_stride_t + head * dout_stride_h + d[None, :]
    out_place = out + t[:, None] * stride_t + head * stride_h + d[None, :]
    grad = tl.load(grad_place, mask=within, other=0.0).to(total.dtype)
    value = tl.load(out_place, mask=within, other=0.0).to(total.dtype)
    part = tl.sum(tl.sum(grad * value, axis=1) * weight, axis=0)
    tl.store(parts + tl.program_id(0) * heads + head, part)


def add_sinks(out: Tensor, lse: Tensor, sinks: Tensor) -> Tensor:
    """See `epilogue.add_sinks`."""
    lse = lse.contiguous()
    after = torch.empty_like(lse)
    strides = _strides(out)
    _add_sinks[_grid(out)](out, lse, sinks, after, len(out), *strides, **_sizes(out))
    return after


def sink_gradient(dout: Tensor, out: Tensor, lse: Tensor, sinks: Tensor) -> Tensor:
    """See `epilogue.sink_gradient`; parts are summed in a fixed order."""
    grid = _grid(out)
    parts = lse.new_empty(grid)
    sizes = len(out), out.shape[1], *_strides(dout), *_strides(out)
    _sink_gradient[grid](dout, out, lse.contiguous(), sinks, parts, *sizes, **_sizes(out))
    return -parts.sum(0).to(sinks.dtype)


def _grid(out: Tensor) -> tuple[int, int]:
    return (triton.cdiv(len(out), BLOCK_T), out.shape[1])


def _strides(x: Tensor) -> tuple[int, int]:
    if x.stride(-1) != 1:
        raise ValueError("The values of a head have to lie side by side.")
    return x.stride(0), x.stride(1)


def _sizes(out: Tensor) -> dict[str, Any]:
    width = out.shape[-1]
    return {"width": width, "BLOCK_T": BLOCK_T, "BLOCK_D": triton.next_power_of_2(width)}
