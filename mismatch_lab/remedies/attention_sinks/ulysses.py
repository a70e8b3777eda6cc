"""Sequence parallelism by exchange of heads, as in DeepSpeed-Ulysses (arXiv 2309.14509).

Each of P ranks holds a piece of every sequence and all heads; two all-to-alls around the attention
give it whole sequences of a P-th of the heads. The sinks are split as the heads are. Their gradient
on a rank is that of its own heads and zero elsewhere, so that summing over the ranks of the group,
as for every other parameter, gives the whole.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mismatch_lab.errors import InputError


def to_heads(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[B, H, n / P, D] of this rank's tokens to [B, H / P, n, D] of its heads."""
    result: Tensor = _Exchange.apply(x, 1, 2, group)  # type: ignore[no-untyped-call]
    return result


def to_tokens(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[B, n, H / P, D] of this rank's heads to [B, n / P, H, D] of its tokens."""
    result: Tensor = _Exchange.apply(x, 1, 2, group)  # type: ignore[no-untyped-call]
    return result


def repeated_for(x: Tensor, query_heads: int, group: dist.ProcessGroup) -> Tensor:
    """Key heads [B, K, n, D], repeated until the ranks can share them evenly.

    Raises:
        InputError: the ranks cannot share the heads evenly.
    """
    ranks, key_heads = group.size(), x.shape[1]
    times = ranks // gcd(key_heads, ranks)
    if query_heads % ranks or query_heads % (key_heads * times):
        raise InputError(
            f"{query_heads} query heads and {key_heads} key heads cannot be split over {ranks} "
            "ranks of sequence parallelism.",
            "Use a number of ranks that divides the number of query heads.",
        )
    return x.repeat_interleave(times, dim=1)


def own_sinks(sinks: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[H / P] of this rank's heads."""
    return sinks.chunk(group.size())[group.rank()]


def all_positions(positions: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[B, n / P] of this rank's tokens to [B, n]."""
    pieces = [torch.empty_like(positions) for _ in range(group.size())]
    dist.all_gather(pieces, positions.contiguous(), group=group)
    return torch.cat(pieces, dim=-1)


class _Exchange(torch.autograd.Function):
    """Give up a P-th of dimension `split` to each rank, receive a piece of `join` from each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, split: int, join: int, group: dist.ProcessGroup) -> Tensor:
        ctx.split, ctx.join, ctx.group = split, join, group
        return _exchange(x, split, join, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _exchange(grad, ctx.join, ctx.split, ctx.group), None, None, None


def _exchange(x: Tensor, split: int, join: int, group: dist.ProcessGroup) -> Tensor:
    sent = torch.stack(x.chunk(group.size(), dim=split))
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    return torch.cat(received.unbind(), dim=join)
