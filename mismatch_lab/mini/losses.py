"""The two terms of mini-gpt-oss's training loss."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def weighted_cross_entropy(logits: "Tensor", token_ids: "Tensor", weights: "Tensor") -> "Tensor":
    """Mean next-token cross entropy in nats, each token counted by its weight.

    Args:
        logits: [B, T, V].
        token_ids: [B, T].
        weights: [B, T], weight of predicting that token; the first token is never predicted.
    """
    from torch.nn import functional

    loss = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), token_ids[:, 1:].flatten(), reduction="none"
    )
    weight = weights[:, 1:].flatten()
    return (loss * weight).sum() / weight.sum()


def balance_loss(router_logits: Sequence["Tensor"], mask: "Tensor", top_k: int) -> "Tensor":
    """Load-balancing loss of Switch Transformer (arXiv:2101.03961, eq. 4-6), mean over layers.

    It is `top_k` when the experts are used evenly, and more when they are not. transformers'
    own version sums over layers first, so that one layer may make up for another.

    Args:
        router_logits: per layer [B*T, E].
        mask: [B, T], 0 on padding.
        top_k: experts per token.
    """
    import torch

    real = mask.flatten().float()
    terms = []
    for logits in router_logits:
        n_experts = logits.shape[-1]
        chosen = torch.zeros_like(logits).scatter(1, logits.topk(top_k, dim=-1).indices, 1.0)
        share_chosen = (chosen * real[:, None]).sum(0) / real.sum()
        share_prob = (logits.softmax(-1) * real[:, None]).sum(0) / real.sum()
        terms.append(n_experts * (share_chosen * share_prob).sum())
    return torch.stack(terms).mean()
