"""FlashAttention's equations written out, for any device and dtype; memory is quadratic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mismatch_lab.remedies.attention_sinks.spec import Spec, visible


@dataclass(frozen=True)
class MathKernel:
    """One document at a time, in float32 at least."""

    def unfit(self, q: Tensor) -> str:
        return ""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        lse = q.new_empty(q.shape[1], q.shape[0], dtype=_wide(q.dtype))
        for rows, keys in spec.layout.documents():
            scores = _scores(q[rows], k[keys], spec)
            lse[:, rows] = scores.logsumexp(dim=-1)
            probabilities = (scores - lse[:, rows, None]).exp()
            out[rows] = (probabilities @ _by_head(v[keys], q.shape[1])).transpose(0, 1).to(q.dtype)
        return out, lse

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, spec: Spec
    ) -> tuple[Tensor, Tensor, Tensor]:
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for rows, keys in spec.layout.documents():
            heads = q.shape[1]
            p = (_scores(q[rows], k[keys], spec) - lse[:, rows, None]).exp()
            grad = _by_head(dout[rows], heads)
            d = (grad * _by_head(out[rows], heads)).sum(-1, keepdim=True)
            ds = p * (grad @ _by_head(v[keys], heads).mT - d) * spec.scale
            dq[rows] = (ds @ _by_head(k[keys], heads)).transpose(0, 1).to(q.dtype)
            dk[keys] = _grouped(ds.mT @ _by_head(q[rows], heads), k.shape[1]).to(k.dtype)
            dv[keys] = _grouped(p.mT @ grad, v.shape[1]).to(v.dtype)
        return dq, dk, dv


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """[n, K, D] to wide [H, n, D], key heads repeated."""
    x = x.transpose(0, 1).to(_wide(x.dtype))
    return x.repeat_interleave(heads // x.shape[0], dim=0)


def _grouped(x: Tensor, key_heads: int) -> Tensor:
    """[H, n, D] to [n, K, D], summed over the query heads of each key head."""
    return x.view(key_heads, -1, *x.shape[1:]).sum(1).transpose(0, 1)


def _scores(q: Tensor, k: Tensor, spec: Spec) -> Tensor:
    """[H, n, m] scaled scores, minus infinity where a query does not see a key."""
    heads = q.shape[1]
    rows = range(len(k) - len(q), len(k))
    seen = visible(rows, range(len(k)), spec.window, q.device)
    scores = _by_head(q, heads) @ _by_head(k, heads).mT * spec.scale
    return scores.masked_fill(~seen, -torch.inf)


KERNEL = MathKernel()
