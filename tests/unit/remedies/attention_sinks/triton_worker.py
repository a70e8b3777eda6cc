"""Run with TRITON_INTERPRET=1: how far the Triton kernels are from the torch operations."""

from __future__ import annotations

import itertools
import json

import torch

from mismatch_lab.remedies.attention_sinks import epilogue

TOKENS, HEADS, WIDTH = 70, 3, 24  # 70 tokens end within a block, 24 is no power of two


def distance(dtype: torch.dtype, contiguous: bool) -> dict[str, float]:
    """Largest relative errors in the Frobenius norm of what the two ways return."""
    generator = torch.Generator().manual_seed(0)
    shape = (TOKENS, HEADS, WIDTH)
    out, dout = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    if not contiguous:  # heads first in memory
        out = out.transpose(0, 1).contiguous().transpose(0, 1)
    lse = torch.randn(HEADS, TOKENS, generator=generator)
    sinks = torch.randn(HEADS, generator=generator).to(dtype)
    results = []
    for fused in (True, False):
        mine = out.clone()  # keeps the order in memory
        with_sinks = epilogue.add_sinks(mine, lse, sinks, fused)
        gradient = epilogue.sink_gradient(dout, mine, with_sinks, sinks, fused)
        results.append({"out": mine, "lse": with_sinks, "dsinks": gradient})
    assert results[0]["dsinks"].dtype == dtype
    fused, plain = results
    return {
        name: float((fused[name] - plain[name]).float().norm() / plain[name].float().norm())
        for name in plain
    }


if __name__ == "__main__":
    cases = itertools.product((torch.float32, torch.bfloat16), (True, False))
    print(json.dumps({str(case): distance(*case) for case in cases}))
