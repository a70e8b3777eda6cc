"""Rollout correction: each token's loss is weighed by how likely the trainer finds it, or dropped.

`d = logp_train - logp_infer` of the sampled tokens; `w` is `exp(d)` of the token, or `exp(sum d)`
of the sequence, or its geometric mean `exp(mean d)`. Then

- truncate: `min(w, high)` — token or sequence TIS;
- mask: `w` inside [low, high], else 0 — masked IS;
- icepop: the same by token, with the published bounds;
- geometric: 1 where the sequence's geometric mean lies in [low, high], else 0.

The weights carry no gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mismatch_lab.remedies.base import Remedy

if TYPE_CHECKING:
    from torch import Tensor

    from mismatch_lab.trainer.config import Correction

REMEDY = Remedy(
    id="rollout-correction",
    about="importance weights of the trainer over the engine, truncated, masked or bounded",
    formula="min(w, C) | w 1[low <= w <= high] | 1[low <= g <= high], w = exp(d) or exp(sum d), "
    "g = exp(mean d)",
    source="TIS: Yao et al. 2025, 'Your Efficient RL Framework Secretly Brings You Off-Policy RL "
    "Training'; IcePop: Ling team 2025, 'Small Leak Can Sink a Great Ship'; masks and geometric "
    "means: verl docs, 'Rollout Correction'",
    causes=("numerics-floor", "lm-head-precision", "routing-flips", "kv-cache-quantisation"),
)

ICEPOP_BOUNDS = (0.5, 5.0)

MAX_EXPONENT = 20.0
"""Exponents are clipped to this, as in verl: a weight beyond it is beyond any bound."""


def weights(logp_train: Tensor, logp_infer: Tensor, mask: Tensor, how: Correction) -> Tensor:
    """Weight of each token's loss.

    Args:
        logp_train: [R, n] of the trainer's scoring pass.
        logp_infer: [R, n] as the engine returned them.
        mask: [R, n], 1 on sampled tokens.
        how: kind, level and bounds.

    Returns:
        [R, n], without gradient; 0 where the mask is.
    """
    import torch

    delta = (torch.where(mask > 0, logp_train - logp_infer, 0.0)).detach()
    lengths = mask.sum(dim=1, keepdim=True).clamp(min=1)
    if how.kind == "geometric":
        exponent = (delta.sum(dim=1, keepdim=True) / lengths).expand_as(delta)
    elif how.level == "sequence" and how.kind != "icepop":
        exponent = delta.sum(dim=1, keepdim=True).expand_as(delta)
    else:
        exponent = delta
    ratio = torch.exp(exponent.clamp(-MAX_EXPONENT, MAX_EXPONENT))
    low, high = ICEPOP_BOUNDS if how.kind == "icepop" else (how.low, how.high)
    inside = ((ratio >= low) & (ratio <= high)).to(ratio.dtype)
    if how.kind == "truncate":
        chosen = ratio.clamp(max=high)
    elif how.kind == "geometric":
        chosen = inside
    else:
        chosen = ratio * inside
    return chosen * mask


def summary(found: Tensor, mask: Tensor) -> dict[str, float]:
    """Mean weight, and the share of sampled tokens that have none."""
    n = float(mask.sum())
    zero = float(((found == 0) & (mask > 0)).sum())
    return {
        "correction/weight_mean": float(found.sum()) / n if n else float("nan"),
        "correction/dropped_share": zero / n if n else float("nan"),
    }
