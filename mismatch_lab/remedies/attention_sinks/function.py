"""Sink attention through a kernel that has none, as one differentiable function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mismatch_lab.errors import InputError
from mismatch_lab.remedies.attention_sinks.epilogue import add_sinks, can_fuse, sink_gradient
from mismatch_lab.remedies.attention_sinks.kernels import pick_kernel
from mismatch_lab.remedies.attention_sinks.kernels.base import Kernel, NativeKernel
from mismatch_lab.remedies.attention_sinks.spec import Spec


def sink_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor,
    spec: Spec,
    *,
    kernel: str = "auto",
    fused: bool | None = None,
) -> Tensor:
    """Causal attention with a learned sink for each query head; see the package's docstring.

    Args:
        q: [T, H, D], documents one after another.
        k: [S, K, D], with K a divisor of H.
        v: [S, K, D]
        sinks: [H] logits.
        spec: documents, scale and window.
        kernel: a row of `KERNELS`, `torch` or `auto` (see `pick_kernel`).
        fused: what is added to the kernel runs as one Triton kernel each way; None: on CUDA
            where there is a Triton.

    Returns:
        [T, H, D], differentiable once in q, k, v and sinks.

    Raises:
        InputError: shapes or dtypes do not go together, or the kernel cannot take them.
    """
    _check(q, k, v, sinks)
    row = pick_kernel(kernel, q)
    if isinstance(row, NativeKernel):
        return row.attend(q, k, v, sinks, spec)
    fuse = can_fuse(q) if fused is None else fused
    result: Tensor = _SinkAttention.apply(q, k, v, sinks, spec, row, fuse)  # type: ignore[no-untyped-call]
    return result


class _SinkAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor,
        spec: Spec,
        kernel: Kernel,
        fused: bool,
    ) -> Tensor:
        out, lse = kernel.forward(q, k, v, spec)
        lse = add_sinks(out, lse, sinks, fused)
        ctx.save_for_backward(q, k, v, sinks, out, lse)
        ctx.spec, ctx.kernel, ctx.fused = spec, kernel, fused
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, sinks, out, lse = ctx.saved_tensors
        dout = dout.contiguous()
        dq, dk, dv = ctx.kernel.backward(dout, q, k, v, out, lse, ctx.spec)
        dsinks = None
        if ctx.needs_input_grad[3]:
            dsinks = sink_gradient(dout, out, lse, sinks, ctx.fused)
        return dq, dk, dv, dsinks, None, None, None


def _check(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor) -> None:
    if q.ndim != 3 or k.shape != v.shape or k.shape[-1] != q.shape[-1] or q.shape[1] % k.shape[1]:
        raise InputError(
            f"Queries {tuple(q.shape)}, keys {tuple(k.shape)} and values {tuple(v.shape)} do not "
            "go together.",
            "They are [tokens, heads, size]; the number of key heads divides that of query heads.",
        )
    if sinks.shape != (q.shape[1],):
        raise InputError(
            f"There are {q.shape[1]} query heads and sinks of shape {tuple(sinks.shape)}.",
            "Where heads are split over ranks, each rank passes the sinks of its own heads.",
        )
    if not q.dtype == k.dtype == v.dtype:
        raise InputError(f"Queries, keys and values are {q.dtype}, {k.dtype} and {v.dtype}.")
