"""Random attention problems of GPT-OSS's shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mismatch_lab.remedies.attention_sinks.bench.ways import Attend
from mismatch_lab.remedies.attention_sinks.spec import Spec, layout_of


@dataclass(frozen=True)
class Shape:
    """Heads, dtype and device of a run."""

    heads: int
    key_heads: int
    width: int
    dtype: torch.dtype
    device: str

    @property
    def score_bytes(self) -> int:
        """Of one score of every head."""
        return self.heads * self.dtype.itemsize


GPT_OSS = Shape(heads=64, key_heads=8, width=64, dtype=torch.bfloat16, device="cuda")
DRY_RUN = Shape(heads=8, key_heads=2, width=16, dtype=torch.float32, device="cpu")


@dataclass(frozen=True)
class Problem:
    """Leaves (q, k, v, sinks), an upstream gradient, and who attends to whom."""

    leaves: tuple[Tensor, Tensor, Tensor, Tensor]
    dout: Tensor
    spec: Spec

    def out(self, attend: Attend) -> Tensor:
        """[T, H, D]"""
        return attend(*self.leaves, self.spec)

    def run(self, attend: Attend) -> list[Tensor | None]:
        """Output, and the gradients of q, k, v and sinks."""
        out = self.out(attend)
        grads = torch.autograd.grad(out, self.leaves, self.dout, allow_unused=True)
        return [out.detach(), *grads]

    def wide(self) -> Problem:
        """The same numbers in float64."""
        q, k, v, sinks = (x.detach().double().requires_grad_() for x in self.leaves)
        return Problem((q, k, v, sinks), self.dout.double(), self.spec)


def make_problem(shape: Shape, lengths: list[int], window: int | None) -> Problem:
    """Normal random numbers, the same for the same arguments."""
    generator = torch.Generator(shape.device).manual_seed(0)
    tokens = sum(lengths)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=shape.dtype, device=shape.device)

    q = normal(tokens, shape.heads, shape.width).requires_grad_()
    k, v = (normal(tokens, shape.key_heads, shape.width).requires_grad_() for _ in range(2))
    sinks = normal(shape.heads).requires_grad_()
    spec = Spec(layout_of(lengths, device=shape.device), shape.width**-0.5, window)
    return Problem((q, k, v, sinks), normal(tokens, shape.heads, shape.width), spec)
