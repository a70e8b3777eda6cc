"""What sinks add to a kernel: a rescaling of its output forward, a reduction backward."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor


def add_sinks(out: Tensor, lse: Tensor, sinks: Tensor, fused: bool) -> Tensor:
    """Rescale a kernel's `out` in place; returns the log-sum-exp with the sinks in it.

    Args:
        out: [T, H, D] of a kernel without sinks, overwritten.
        lse: [H, T] of that kernel.
        sinks: [H]
        fused: one Triton kernel instead of a few torch operations.

    Returns:
        [H, T], in the dtype of `lse`.
    """
    if fused:
        from mismatch_lab.remedies.attention_sinks import epilogue_triton

        return epilogue_triton.add_sinks(out, lse, sinks)
    with_sinks = torch.logaddexp(lse, sinks.to(lse.dtype)[:, None])
    out.mul_((lse - with_sinks).exp().T[..., None])
    return with_sinks


def sink_gradient(dout: Tensor, out: Tensor, lse: Tensor, sinks: Tensor, fused: bool) -> Tensor:
    """`-sum_t exp(s - lse_t) · (dout_t · out_t)` of each head.

    Args:
        dout: [T, H, D]
        out: [T, H, D], with sinks.
        lse: [H, T], with sinks.
        sinks: [H]
        fused: as for `add_sinks`.

    Returns:
        [H], in the dtype of `sinks`.
    """
    if fused:
        from mismatch_lab.remedies.attention_sinks import epilogue_triton

        return epilogue_triton.sink_gradient(dout, out, lse, sinks)
    # Products of half precision are exact in float32; rounding them first would cost digits.
    dot = (dout.to(lse.dtype) * out).sum(-1)
    weight = (sinks.to(lse.dtype)[:, None] - lse).exp()
    return -(weight * dot.T).sum(-1).to(sinks.dtype)


def can_fuse(out: Tensor) -> bool:
    """Is there a Triton for the device of this tensor?"""
    return out.is_cuda and find_spec("triton") is not None
