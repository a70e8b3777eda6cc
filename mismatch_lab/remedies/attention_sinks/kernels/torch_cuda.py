"""torch's own FlashAttention 2 for CUDA, by the operators beneath scaled_dot_product_attention.

They take documents, windows and fewer key heads as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mismatch_lab.errors import EngineError
from mismatch_lab.remedies.attention_sinks.kernels.base import unfit_for_flash_attention_2
from mismatch_lab.remedies.attention_sinks.spec import Spec

_forward = torch.ops.aten._flash_attention_forward
_backward = torch.ops.aten._flash_attention_backward


class TorchCudaKernel:
    """`aten::_flash_attention_forward` and `_backward`, packed."""

    def unfit(self, q: Tensor) -> str:
        return unfit_for_flash_attention_2(q)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
        at = spec.layout
        lengths = at.cu_q, at.cu_k, at.max_q, at.max_k
        out, lse, *_ = _forward(q, k, v, *lengths, 0.0, True, False, **_options(spec))
        if lse.shape != (q.shape[1], q.shape[0]):
            raise EngineError(
                f"torch {torch.__version__} returned log-sum-exps of shape {tuple(lse.shape)} for "
                f"packed queries, not {(q.shape[1], q.shape[0])}.",
                "Use another attention kernel, or another version of torch.",
            )
        return out, lse

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, spec: Spec
    ) -> tuple[Tensor, Tensor, Tensor]:
        at = spec.layout
        # State of the random numbers of a dropout that there is none of.
        seed = torch.empty(2, dtype=torch.uint64, device=q.device)
        offset = torch.empty((), dtype=torch.uint64, device=q.device)
        given = dout, q, k, v, out, lse.contiguous(), at.cu_q, at.cu_k, at.max_q, at.max_k
        dq, dk, dv = _backward(*given, 0.0, True, seed, offset, **_options(spec))
        return dq, dk, dv


def _options(spec: Spec) -> dict[str, float | int]:
    # The kernel counts the keys left of the query's own.
    left = -1 if spec.window is None else spec.window - 1
    return {"scale": spec.scale, "window_size_left": left, "window_size_right": 0}


KERNEL = TorchCudaKernel()
