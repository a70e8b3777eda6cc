"""The definition, by way of all the scores: what every kernel here is held against."""

from __future__ import annotations

import torch
from torch import Tensor

from mismatch_lab.remedies.attention_sinks.spec import Spec, visible


def attention_reference(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, spec: Spec) -> Tensor:
    """Sink attention as GPT-OSS defines it: a softmax with one more column, which is then dropped.

    Plain differentiable operations in the dtype given (float64 for a truth); memory grows with the
    square of a document's length.

    Args:
        q: [T, H, D]
        k: [S, K, D], with K a divisor of H
        v: [S, K, D]
        sinks: [H]
        spec: documents, scale and window.

    Returns:
        [T, H, D]
    """
    parts = [
        _document(q[rows], k[keys], v[keys], sinks, spec) for rows, keys in spec.layout.documents()
    ]
    return torch.cat(parts)


def _document(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, spec: Spec) -> Tensor:
    group = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(group, dim=1)
    v = v.repeat_interleave(group, dim=1)
    scores = torch.einsum("thd,shd->hts", q, k) * spec.scale
    rows = range(len(k) - len(q), len(k))
    hidden = ~visible(rows, range(len(k)), spec.window, q.device)
    scores = scores.masked_fill(hidden, -torch.inf)
    column = sinks[:, None, None].expand(-1, len(q), 1).to(scores.dtype)
    probabilities = torch.cat([scores, column], dim=-1).softmax(dim=-1)[..., :-1]
    return torch.einsum("hts,shd->thd", probabilities, v)
