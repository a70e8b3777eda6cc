"""On-policy, the ratio is 1: the old log-probs are the current ones, detached.

Where `loss.old = "infer"` asks for a ratio over the engine it is refused (`trainer/loss_ratio.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mismatch_lab.remedies.base import Remedy

if TYPE_CHECKING:
    from torch import Tensor


def old_logp(logp: Tensor, logp_scored: Tensor, update: int) -> Tensor:
    """Denominator of the ratio in an update on a batch (counted from 0), [B, n].

    The mismatch it hides from the loss is measured all the same: `decode_train` and `train_train`
    are taken of the passes themselves, not of the ratio.
    """
    return logp.detach() if update == 0 else logp_scored


REMEDY = Remedy(
    id="on-policy-ratio",
    about="the clipped ratio is 1 in the first update on a batch, whatever a second pass computes",
    formula="logp_old = stop_gradient(logp) in the first update, else of the scoring pass",
    source="LinkedIn, Unlocking Agentic RL Training for GPT-OSS (2026); verl #3580",
    softens=("routing-two-pass", "batch-variance", "dropout-active"),
    old_logp=old_logp,
)
