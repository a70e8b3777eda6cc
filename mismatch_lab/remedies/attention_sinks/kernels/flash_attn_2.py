"""The package flash-attn 2, by the forward and backward beneath its flash_attn_varlen_func."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from mismatch_lab.remedies.attention_sinks.kernels.base import unfit_for_flash_attention_2
from mismatch_lab.remedies.attention_sinks.spec import Spec


class FlashAttn2Kernel:
    """`_flash_attn_varlen_forward` and `_backward` of flash-attn 2.7 and later."""

    def unfit(self, q: Tensor) -> str:
        # flash-attn-4 installs a flash_attn package without this module.
        if find_spec("flash_attn") is None or find_spec("flash_attn.flash_attn_interface") is None:
            return "flash-attn 2 is not installed (pip install flash-attn)"
        return unfit_for_flash_attention_2(q)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
        from flash_attn import flash_attn_interface

        at = spec.layout
        out, lse, _, _ = flash_attn_interface._wrapped_flash_attn_varlen_forward(
            q, k, v, at.cu_q, at.cu_k, at.max_q, at.max_k, 0.0, spec.scale, True, *_window(spec)
        )
        return out, lse

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, spec: Spec
    ) -> tuple[Tensor, Tensor, Tensor]:
        from flash_attn import flash_attn_interface

        at = spec.layout
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        given = dout, q, k, v, out, lse.contiguous(), dq, dk, dv
        lengths = at.cu_q, at.cu_k, at.max_q, at.max_k
        softcap, alibi_slopes = 0.0, None
        deterministic = torch.are_deterministic_algorithms_enabled()
        flash_attn_interface._wrapped_flash_attn_varlen_backward(
            *given,
            *lengths,
            0.0,
            spec.scale,
            True,
            *_window(spec),
            softcap,
            alibi_slopes,
            deterministic,
        )
        return dq, dk, dv


def _window(spec: Spec) -> tuple[int, int]:
    """(keys left of the query's own, right of it); -1 for all."""
    return (-1 if spec.window is None else spec.window - 1, 0)


KERNEL = FlashAttn2Kernel()
