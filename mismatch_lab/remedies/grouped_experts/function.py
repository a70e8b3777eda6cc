"""The differentiable sum over experts that keeps only its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS = 8192
"""Slots, pairs of token and expert, that are worked on at once."""


@dataclass(frozen=True)
class Layout:
    """How a layer stores its weights, and its activation."""

    gate: Callable[[Tensor], Tensor]
    """[n, 2I] or [n, I] -> [n, I], without parameters."""
    transposed: bool
    """Weights are [E, in, out] rather than [E, out, in]."""

    def matrix(self, weights: Tensor, expert: int) -> Tensor:
        """[in, out], a view."""
        return weights[expert] if self.transposed else weights[expert].mT


@dataclass(frozen=True)
class Piece:
    """Some slots of one expert."""

    expert: int
    slots: Tensor
    """[n] into the flattened [T, k]."""
    tokens: Tensor
    """[n]; none occurs twice."""


def grouped_experts(
    layout: Layout,
    hidden: Tensor,
    chosen: Tensor,
    routing: Tensor,
    up: Tensor,
    up_bias: Tensor | None,
    down: Tensor,
    down_bias: Tensor | None,
) -> Tensor:
    """Sum over each token's experts of `routing · expert(hidden)`, [T, H].

    Args:
        layout: of the weights below.
        hidden: [T, H].
        chosen: [T, k] integers; those from E on stand for experts of another rank and add nothing.
        routing: [T, k].
        up: E matrices H to 2I (or I).
        up_bias: [E, 2I] or None.
        down: E matrices I to H.
        down_bias: [E, H] or None.
    """
    out: Tensor = _Experts.apply(  # type: ignore[no-untyped-call]
        layout, chosen, hidden, routing, up, up_bias, down, down_bias
    )
    return out


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layout: Layout, chosen: Tensor, hidden: Tensor, routing: Tensor, *weights: Any
    ) -> Tensor:
        up, up_bias, down, down_bias = weights
        order, counts = _sorted(chosen, len(up))
        out = torch.zeros(hidden.shape, dtype=_wide(hidden.dtype), device=hidden.device)
        for piece in _pieces(order, counts, chosen.shape[1]):
            x = hidden[piece.tokens].to(up.dtype)
            a = layout.gate(_linear(layout, x, up, up_bias, piece.expert))
            y = _linear(layout, a, down, down_bias, piece.expert).to(out.dtype)
            y *= routing.reshape(-1)[piece.slots, None]
            out.index_add_(0, piece.tokens, y)
        ctx.layout, ctx.counts = layout, counts
        ctx.save_for_backward(order, hidden, routing, *weights)
        return out.to(hidden.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        order, hidden, routing, *weights = ctx.saved_tensors
        up, up_bias, down, down_bias = weights
        of_inputs = [torch.zeros_like(x, dtype=_wide(x.dtype)) for x in (hidden, routing)]
        of_weights = [
            torch.zeros_like(w) if w is not None and needed else None
            for w, needed in zip(weights, ctx.needs_input_grad[4:], strict=True)
        ]
        for piece in _pieces(order, ctx.counts, routing.shape[1]):
            x, dy = hidden[piece.tokens].to(up.dtype), dout[piece.tokens].to(up.dtype)
            w = routing.reshape(-1)[piece.slots, None].to(up.dtype)
            p = _linear(ctx.layout, x, up, up_bias, piece.expert).requires_grad_()
            with torch.enable_grad():
                a = ctx.layout.gate(p)
            g = dy @ ctx.layout.matrix(down, piece.expert).mT
            (dp,) = torch.autograd.grad(a, p, w * g)
            dw = (g * a.detach()).sum(-1, dtype=of_inputs[1].dtype)
            if down_bias is not None:
                dw += (dy * down_bias[piece.expert]).sum(-1, dtype=dw.dtype)
            of_inputs[1].view(-1)[piece.slots] = dw
            dx = dp @ ctx.layout.matrix(up, piece.expert).mT
            of_inputs[0].index_add_(0, piece.tokens, dx.to(of_inputs[0].dtype))
            _add(ctx.layout, of_weights[:2], piece.expert, x, dp)
            _add(ctx.layout, of_weights[2:], piece.expert, a.detach(), w * dy)
        return (
            None,
            None,
            of_inputs[0].to(hidden.dtype),
            of_inputs[1].to(routing.dtype),
            *of_weights,
        )


def _linear(layout: Layout, x: Tensor, weights: Tensor, bias: Tensor | None, expert: int) -> Tensor:
    matrix = layout.matrix(weights, expert)
    return x @ matrix if bias is None else torch.addmm(bias[expert], x, matrix)


def _add(layout: Layout, grads: list[Tensor | None], expert: int, x: Tensor, dout: Tensor) -> None:
    """Add the gradients of one expert's weights and bias, in place."""
    weights, bias = grads
    if weights is not None:
        layout.matrix(weights, expert).addmm_(x.mT, dout)
    if bias is not None:
        bias[expert] += dout.sum(0)


def _sorted(chosen: Tensor, experts: int) -> tuple[Tensor, list[int]]:
    """Slots in the order of their experts, [T k], and how many each expert has."""
    ids, order = torch.sort(chosen.reshape(-1), stable=True)
    bounds = torch.arange(experts + 1, device=ids.device, dtype=ids.dtype)
    ends: list[int] = torch.searchsorted(ids, bounds).tolist()  # the one wait for the device
    return order, [end - start for start, end in pairwise(ends)]


def _pieces(order: Tensor, counts: list[int], top_k: int) -> Iterator[Piece]:
    start = 0
    for expert, count in enumerate(counts):
        for slots in torch.split(order[start : start + count], ROWS) if count else ():
            yield Piece(expert, slots, slots // top_k)
        start += count


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
