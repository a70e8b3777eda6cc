"""GRPO (Shao et al. 2024, https://arxiv.org/abs/2402.03300) as pure functions of tensors.

Tokens are [B, n]; `mask` is 1 where the engine sampled a token and 0 elsewhere (prompt, padding,
the tool's replies). All log-probs are of the same tokens, in nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mismatch_lab.remedies.rollout_correction import LOG_RATIO_MAX_NATS

STD_FLOOR = 1e-6
"""Added to a group's deviation, so that rewards which differ by rounding alone teach nothing."""


def group_advantages(rewards: Tensor, group: int, kind: Literal["mean-std", "mean"]) -> Tensor:
    """Each reward against its group: `(r - mean) / (std + floor)`, or `r - mean`; exactly 0 where
    all rewards of a group are equal.

    The paper does not say which deviation it divides by. This one is the population's; TRL and
    verl divide by the unbiased one, which is sqrt(group / (group - 1)) as large. Without it
    (Dr. GRPO, Liu et al. 2025, https://arxiv.org/abs/2503.20783) easy and hard problems weigh what
    they weigh.

    Args:
        rewards: [G * group], the answers to one problem next to each other; float64 keeps rewards
            such as 0.6 apart from their own rounding.
        group: answers to one problem.
        kind: whether to divide.

    Returns:
        [G * group] float32.
    """
    table = rewards.double().view(-1, group)
    centred = table - table.mean(dim=1, keepdim=True)
    if kind == "mean-std":
        centred = centred / (table.std(dim=1, keepdim=True, unbiased=False) + STD_FLOOR)
    equal = table.amax(dim=1, keepdim=True) == table.amin(dim=1, keepdim=True)
    return torch.where(equal, 0.0, centred).flatten().float()


@dataclass(frozen=True)
class TokenLoss:
    """Of each token, [B, n]; the caller masks and takes the mean."""

    loss: Tensor
    clipped: Tensor
    """1 where the clip took the gradient away."""
    ratio: Tensor
    """Before the clip; without gradient."""


def clipped_policy_loss(
    logp: Tensor, logp_old: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> TokenLoss:
    """PPO's clipped surrogate (Schulman et al. 2017, https://arxiv.org/abs/1707.06347, eq. 7):

    `-min(r A, clip(r, 1 - low, 1 + high) A)`, `r = exp(logp - logp_old)`. `low != high` is DAPO's
    clip-higher (https://arxiv.org/abs/2503.14476). Beyond `LOG_RATIO_MAX_NATS` r is constant: a
    token has no gradient there, instead of one that is infinite.

    Args:
        logp: [B, n], with gradient.
        logp_old: [B, n], of the policy that the batch counts as sampled from.
        advantages: [B] or [B, 1].
        clip_low: how far below 1 a ratio goes.
        clip_high: how far above.
    """
    advantage = advantages.view(-1, 1)
    ratio = torch.exp((logp - logp_old).clamp(-LOG_RATIO_MAX_NATS, LOG_RATIO_MAX_NATS))
    free = ratio * advantage
    bound = ratio.clamp(1 - clip_low, 1 + clip_high) * advantage
    clipped = (bound < free).float().detach()
    return TokenLoss(-torch.minimum(free, bound), clipped, ratio.detach())


def k3_penalty(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """Of each token, `exp(d) - 1 - d`, `d = logp_ref - logp`: GRPO as published (eq. 4).

    As a number it estimates KL(policy || reference), without bias where the tokens were sampled
    from the policy. As a loss it does something else: its gradient is
    `E_policy[(1 - ref / policy) grad logp]`, which is that of KL(reference || policy); see Tang and
    Munos 2025, https://arxiv.org/abs/2506.09477.

    Args:
        logp: [B, n], with gradient.
        logp_ref: [B, n]; `d` counts up to `LOG_RATIO_MAX_NATS`.
    """
    delta = (logp_ref - logp).clamp(-LOG_RATIO_MAX_NATS, LOG_RATIO_MAX_NATS)
    return torch.expm1(delta) - delta


def k2_penalty(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """Of each token, `d^2 / 2` (Schulman 2020, http://joschu.net/blog/kl-approx.html).

    As a loss over tokens of the policy its gradient is `E_policy[-d grad logp]`, which is that of
    KL(policy || reference) at these contexts. Tokens of another policy need its weight, policy over
    sampler, as in DeepSeek-V3.2's unbiased penalty (https://arxiv.org/abs/2512.02556), whose
    gradient is the same. What a token does to the contexts after it is left out, as in k3.

    Args:
        logp: [B, n], with gradient.
        logp_ref: [B, n].
    """
    return (logp_ref - logp).square() / 2


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean where the mask is 1; NaN where it is nowhere."""
    return torch.where(mask > 0, values, 0.0).sum() / mask.sum()


def loss_weights(mask: Tensor, kind: Literal["token", "sequence"]) -> Tensor:
    """[R, n] weights that sum to 1, so that a loss is `(weights * token_loss).sum()`; all 0 where
    the mask is nowhere 1.

    `token`: every token alike (DAPO). `sequence`: every sequence alike, its tokens sharing its
    weight (GRPO as published). A sequence without a token has no weight.

    Taken over all rows of an update, whatever micro-batches they are cut into: so accumulated
    gradients are those of the whole.
    """
    mask = mask.float()
    if kind == "token":
        return mask / mask.sum().clamp(min=1)
    lengths = mask.sum(dim=1, keepdim=True)
    shares = mask / lengths.clamp(min=1)
    return shares / (lengths > 0).sum().clamp(min=1)
