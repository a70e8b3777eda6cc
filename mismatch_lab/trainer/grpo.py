"""GRPO (Shao et al. 2024, https://arxiv.org/abs/2402.03300) as pure functions of tensors.

Tokens are [B, n]; `mask` is 1 where the engine sampled a token and 0 elsewhere (prompt, padding,
the tool's replies). All log-probs are of the same tokens, in nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

STD_FLOOR = 1e-6
"""Added to a group's deviation. A group whose rewards are all equal has advantage 0, not noise."""


def group_advantages(rewards: Tensor, group: int, kind: Literal["mean-std", "mean"]) -> Tensor:
    """Each reward against its group: `(r - mean) / (std + floor)`, or `r - mean`.

    The deviation is the population's, as in the paper's code. Without it (Dr. GRPO, Liu et al.
    2025, https://arxiv.org/abs/2503.20783) easy and hard problems weigh what they weigh.

    Args:
        rewards: [G * group], the answers to one problem next to each other.
        group: answers to one problem.
        kind: whether to divide.

    Returns:
        [G * group].
    """
    table = rewards.view(-1, group)
    centred = table - table.mean(dim=1, keepdim=True)
    if kind == "mean-std":
        centred = centred / (table.std(dim=1, keepdim=True, unbiased=False) + STD_FLOOR)
    return centred.flatten()


@dataclass(frozen=True)
class TokenLoss:
    """Of each token, [B, n]; the caller masks and takes the mean."""

    loss: Tensor
    clipped: Tensor
    """1 where the clip took the gradient away."""


def clipped_policy_loss(
    logp: Tensor, logp_old: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> TokenLoss:
    """PPO's clipped surrogate (Schulman et al. 2017, https://arxiv.org/abs/1707.06347, eq. 7):

    `-min(r A, clip(r, 1 - low, 1 + high) A)`, `r = exp(logp - logp_old)`. `low != high` is DAPO's
    clip-higher (https://arxiv.org/abs/2503.14476).

    Args:
        logp: [B, n], with gradient.
        logp_old: [B, n], of the policy that the batch counts as sampled from.
        advantages: [B] or [B, 1].
        clip_low: how far below 1 a ratio goes.
        clip_high: how far above.
    """
    advantage = advantages.view(-1, 1)
    ratio = torch.exp(logp - logp_old)
    free = ratio * advantage
    bound = ratio.clamp(1 - clip_low, 1 + clip_high) * advantage
    return TokenLoss(-torch.minimum(free, bound), (bound < free).float().detach())


def k3_penalty(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """KL(policy || reference) per token, `exp(d) - 1 - d`, `d = logp_ref - logp` (GRPO, eq. 4)."""
    delta = logp_ref - logp
    return torch.expm1(delta) - delta


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean where the mask is 1; NaN where it is nowhere."""
    return torch.where(mask > 0, values, 0.0).sum() / mask.sum()


def loss_weights(mask: Tensor, kind: Literal["token", "sequence"]) -> Tensor:
    """[R, n] weights that sum to 1, so that a loss is `(weights * token_loss).sum()`.

    `token`: every token alike (DAPO). `sequence`: every sequence alike, its tokens sharing its
    weight (GRPO as published). A sequence without a token has no weight.

    Taken over all rows of an update, whatever micro-batches they are cut into: so accumulated
    gradients are those of the whole.
    """
    mask = mask.float()
    if kind == "token":
        return mask / mask.sum()
    lengths = mask.sum(dim=1, keepdim=True)
    shares = mask / lengths.clamp(min=1)
    return shares / (lengths > 0).sum()
