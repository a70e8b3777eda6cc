"""Rollout correction: each token's loss is weighed by how likely the trainer finds it, or dropped.

`d = logp_train - logp_infer` of the sampled tokens; `w` is `exp(d)` of the token, or `exp(sum d)`
of the sequence, and `g = exp(mean d)` the sequence's geometric mean. Then

- truncate: `min(w, high)`: token or sequence TIS;
- mask: `w` inside [low, high], else rejected: masked IS;
- icepop: `w` of the token inside [low, high], else 0;
- geometric: 1 where `g` lies in [low, high], else the sequence is rejected.

What is rejected leaves the loss and its denominator, as verl has it: the step does not shrink with
the share rejected, which grows with the mismatch. IcePop is published with all tokens in the
denominator, and has them here. The weights carry no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mismatch_lab.remedies.base import Remedy

if TYPE_CHECKING:
    from torch import Tensor

    from mismatch_lab.trainer.config import Correction

Kind = Literal["truncate", "mask", "icepop", "geometric"]

BOUNDS: dict[Kind, tuple[float, float]] = {
    "truncate": (0.0, 2.0),
    "mask": (0.5, 2.0),
    "icepop": (0.5, 5.0),
    "geometric": (0.999, 1.001),
}
"""(low, high) where a run gives none, as published: TIS with C = 2; verl's rejection at a threshold
of 2 and its reciprocal; IcePop's alpha and beta; verl's preset of geometric rejection, which names
1.0002 to 1.001 as typical (NeMo-RL's recipe has 0.999 and 1.002). A geometric mean is an average
over a sequence: [0.5, 2] would keep one whose every token is off by 0.69 nats."""

LOG_RATIO_MAX_NATS = 20.0
"""Log-ratios count up to this, either way: exp(20) is 4.9e8, beyond any bound that a ratio is held
to, and its square still a float32; exp(89) is none. verl bounds its ratios at the same number."""


@dataclass(frozen=True)
class Corrected:
    """What the correction makes of the sampled tokens, [R, n] each and without gradient."""

    weights: Tensor
    """Of each token's loss; 0 where the token is rejected, or was not sampled."""
    kept: Tensor
    """1 on the tokens over which the loss is a mean."""

    def summary(self, mask: Tensor) -> dict[str, float]:
        """Mean weight, and the share of the mask's tokens that have none."""
        n = float(mask.sum())
        zero = float(((self.weights == 0) & (mask > 0)).sum())
        return {
            "correction/weight_mean": float(self.weights.sum()) / n if n else float("nan"),
            "correction/dropped_share": zero / n if n else float("nan"),
        }


def correct(logp_train: Tensor, logp_infer: Tensor, mask: Tensor, how: Correction) -> Corrected:
    """Args:
    logp_train: [R, n] of the trainer's scoring pass.
    logp_infer: [R, n] as the engine returned them.
    mask: [R, n], 1 on the sampled tokens that count; the others may hold anything.
    how: kind, level and bounds.
    """
    import torch

    delta = torch.where(mask > 0, logp_train - logp_infer, 0.0).detach()
    exponent = delta
    if how.by_sequence:
        exponent = delta.sum(dim=1, keepdim=True)
        if how.kind == "geometric":
            exponent = exponent / mask.sum(dim=1, keepdim=True).clamp(min=1)
        exponent = exponent.expand_as(delta)
    ratio = torch.exp(exponent.clamp(-LOG_RATIO_MAX_NATS, LOG_RATIO_MAX_NATS))
    low, high = how.bounds
    if how.kind == "truncate":
        return Corrected(ratio.clamp(max=high) * mask, mask)
    inside = ((ratio >= low) & (ratio <= high)).to(mask.dtype) * mask
    weights = inside if how.kind == "geometric" else ratio * inside
    return Corrected(weights, mask if how.kind == "icepop" else inside)


REMEDY = Remedy(
    id="rollout-correction",
    about="importance weights of the trainer over the engine, truncated, masked or bounded",
    formula="min(w, C) | w 1[low <= w <= high] | 1[low <= g <= high], w = exp(d) or exp(sum d), "
    "g = exp(mean d)",
    source="TIS: Yao et al. 2025, 'Your Efficient RL Framework Secretly Brings You Off-Policy RL "
    "Training'; IcePop: Ling team 2025, 'Small Leak Can Sink a Great Ship'; masks and geometric "
    "means: verl docs, 'Rollout Correction'",
    softens=("numerics-floor", "lm-head-precision", "routing-flips", "kv-cache-quantisation"),
    correct=correct,
)
