"""The package flash-attn-4 (CuTe), which has learnable sinks of its own.

Its forward had them long before its backward: betas before July 2026 return no gradient for the
sinks and say nothing (flash-attention pull request 2706). So the first use on a device tries.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from mismatch_lab.errors import EngineError
from mismatch_lab.remedies.attention_sinks.kernels.base import HALF, LARGEST_HEAD
from mismatch_lab.remedies.attention_sinks.spec import Spec, layout_of

HOPPER, BLACKWELL = (9, 0), (10, 0)
LARGEST_HEAD_ON_BLACKWELL = 128
"""Of its backward with sinks; 256 is there without them alone (4.0.0b36)."""

FEWEST_TOKENS = 4096
"""From here on it takes 0.5 to 1.0 of the time of torch's kernel with sinks (H200). Below it, both
wait for their launches, and its own are slower: forward 0.20 ms against 0.12 at 1,024 tokens and a
window of 128.
"""


class FlashAttn4Kernel:
    """`flash_attn.cute.flash_attn_varlen_func` with `learnable_sink`."""

    def unfit(self, q: Tensor) -> str:
        if find_spec("flash_attn") is None or find_spec("flash_attn.cute") is None:
            return "flash-attn-4 is not installed (pip install --pre flash-attn-4)"
        if not q.is_cuda:
            return f"it needs a CUDA GPU, and the tensors are on {q.device.type}"
        capability = torch.cuda.get_device_capability(q.device)
        if capability < HOPPER:
            return "it needs a GPU of compute capability 9.0 (Hopper) or later"
        if q.dtype not in HALF:
            return f"it takes bfloat16 and float16, not {q.dtype}"
        largest = LARGEST_HEAD if capability < BLACKWELL else LARGEST_HEAD_ON_BLACKWELL
        if q.shape[-1] % 8 or q.shape[-1] > largest:
            return f"it takes head sizes that 8 divides, up to {largest}, not {q.shape[-1]}"
        return ""

    def pays(self, q: Tensor) -> bool:
        """Whether it can take these queries, is faster on them, and trains sinks."""
        if self.unfit(q) or q.shape[0] < FEWEST_TOKENS:
            return False
        try:
            check_sinks_learn(str(q.device))
        except EngineError:  # to score with it would do; then to train would be another kernel
            return False
        return True

    def attend(self, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, spec: Spec) -> Tensor:
        """See `NativeKernel`.

        Raises:
            EngineError: this version does not train its sinks.
        """
        if sinks.requires_grad and torch.is_grad_enabled():
            check_sinks_learn(str(q.device))
        return _attend(q, k, v, sinks, spec)


@cache
def check_sinks_learn(device: str) -> None:
    """Run one small backward.

    Raises:
        EngineError: no gradient arrived at the sinks.
    """
    shape, dtype = (16, 1, 64), torch.bfloat16
    with torch.enable_grad():
        q, k, v = torch.ones((3, *shape), dtype=dtype, device=device).requires_grad_().unbind()
        sinks = torch.zeros(1, dtype=dtype, device=device, requires_grad=True)
        spec = Spec(layout_of([shape[0]], device=device), scale=shape[-1] ** -0.5)
        _attend(q, k, v, sinks, spec).float().sum().backward()  # type: ignore[no-untyped-call]
    if sinks.grad is None or not sinks.grad.any():
        raise EngineError(
            "This version of flash-attn-4 computes no gradient for attention sinks.",
            "Upgrade it (pip install --pre --upgrade flash-attn-4), or use kernel=torch-cuda.",
        )


def _attend(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, spec: Spec) -> Tensor:
    from flash_attn.cute import flash_attn_varlen_func

    at = spec.layout
    result = flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q=at.cu_q,
        cu_seqlens_k=at.cu_k,
        max_seqlen_q=at.max_q,
        max_seqlen_k=at.max_k,
        softmax_scale=spec.scale,
        causal=True,
        window_size=(None, None) if spec.window is None else (spec.window - 1, 0),
        learnable_sink=sinks,
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )
    out: Tensor = result[0] if isinstance(result, tuple) else result
    return out


KERNEL = FlashAttn4Kernel()
