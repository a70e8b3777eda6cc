"""What a row of the table of kernels has to offer."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mismatch_lab.remedies.attention_sinks.spec import Spec

HALF = (torch.bfloat16, torch.float16)
LARGEST_HEAD = 256
"""Widest head of FlashAttention 2."""


class Kernel(Protocol):
    """Attention without sinks that hands out its log-sum-exp, and takes one back."""

    def unfit(self, q: Tensor) -> str:
        """Why it cannot take these queries; empty if it can."""
        ...

    def forward(self, q: Tensor, k: Tensor, v: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
        """`out` [T, H, D], new memory in the dtype of q, and `lse` [H, T], fp32 at least.

        q is [T, H, D], k and v [S, K, D] with K a divisor of H; `lse` is in nats, over `spec.scale`
        times q·k.
        """
        ...

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, spec: Spec
    ) -> tuple[Tensor, Tensor, Tensor]:
        """dq, dk, dv with `P = exp(S - lse)` and `D = rowsum(dout ∘ out)` as handed in.

        That is more than a backward promises its own forward: see this package's docstring.
        """
        ...


@runtime_checkable
class NativeKernel(Protocol):
    """Attention that has learnable sinks of its own, gradients among them."""

    def unfit(self, q: Tensor) -> str:
        """Why it cannot take these queries; empty if it can."""
        ...

    def attend(self, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, spec: Spec) -> Tensor:
        """`out` [T, H, D] with the sinks [H] in it, differentiable in all four."""
        ...


def unfit_for_flash_attention_2(q: Tensor) -> str:
    """Why FlashAttention 2, in torch or by itself, cannot take these queries."""
    if not q.is_cuda:
        return f"it needs a CUDA GPU, and the tensors are on {q.device.type}"
    if torch.cuda.get_device_capability(q.device) < (8, 0):
        return "it needs a GPU of compute capability 8.0 or later"
    if q.dtype not in HALF:
        return f"it takes bfloat16 and float16, not {q.dtype}"
    if q.shape[-1] % 8 or q.shape[-1] > LARGEST_HEAD:
        return f"it takes head sizes that 8 divides, up to {LARGEST_HEAD}, not {q.shape[-1]}"
    return ""
