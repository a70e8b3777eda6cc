"""What one update minimises, put together from GRPO's parts and the fixes that are on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mismatch_lab.remedies import load_fixes
from mismatch_lab.remedies.base import Fixes
from mismatch_lab.remedies.rollout_correction import Corrected
from mismatch_lab.trainer.batch import Batch
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.grpo import (
    clipped_policy_loss,
    k2_penalty,
    k3_penalty,
    loss_weights,
)


@dataclass(frozen=True)
class Objective:
    """Constant parts of an update, [R, n] over all rows of the step."""

    config: TrainConfig
    fixes: Fixes
    logp_scored: Tensor
    """Of the trainer's scoring pass."""
    logp_old: Tensor
    """Denominator of the ratio."""
    logp_ref: Tensor | None
    """Of the model as it was at the start."""
    usable: Tensor
    """1 on the sampled tokens that the loss may use: their row is not masked, and the engine said
    how likely they were."""
    weights: Tensor
    """Of the mean over tokens: they sum to 1 over the step, and are 0 on rejected tokens."""
    correction: Corrected | None

    @classmethod
    def of(
        cls, config: TrainConfig, batch: Batch, logp_scored: Tensor, logp_ref: Tensor | None
    ) -> Objective:
        """The parts that do not change while the step's updates are made."""
        usable = batch.mask * torch.isfinite(batch.logp_infer)
        if config.loss.truncated == "mask":
            assert batch.truncated is not None
            usable = usable * ~batch.truncated[:, None]
        kept, correction = usable, None
        fixes = load_fixes(config.fixes)
        if fixes.correct is not None:
            correction = fixes.correct(logp_scored, batch.logp_infer, usable, config.correction)
            kept = correction.kept
        old = logp_scored if config.loss.old == "scored" else batch.logp_infer
        weights = loss_weights(kept, config.loss.mean)
        return cls(config, fixes, logp_scored, old, logp_ref, usable, weights, correction)

    def rows_that_count(self, batch: Batch) -> list[int]:
        """Rows with a gradient: one whose advantage is 0 has none, unless the KL pulls at it."""
        pulled = (batch.advantages != 0) | (self.logp_ref is not None)
        has_tokens = (self.weights > 0).any(dim=1)
        return (pulled & has_tokens).nonzero().flatten().tolist()

    def loss(
        self, logp: Tensor, micro: Batch, rows: list[int], update: int
    ) -> tuple[Tensor, Tensor]:
        """A micro-batch's share of the loss, and how much weight of it the clip took away.

        The shares of all micro-batches add up to the loss of the step. No rows: a micro-batch that
        counts for nothing, whose gradient is exactly 0.
        """
        settings = self.config.loss
        weights = self._part(self.weights, micro, rows)
        old = self._beside(logp, self.logp_old, micro, rows)
        if self.fixes.old_logp is not None:
            old = self.fixes.old_logp(logp, old, update)
        token = clipped_policy_loss(
            logp, old, micro.advantages, settings.clip_low, settings.clip_high
        )
        correction = (
            1.0 if self.correction is None else self._part(self.correction.weights, micro, rows)
        )
        value = token.loss * correction
        if self.logp_ref is not None:
            ref = self._beside(logp, self.logp_ref, micro, rows)
            if settings.kl == "k3":
                penalty = k3_penalty(logp, ref)
            else:
                penalty = k2_penalty(logp, ref) * token.ratio * correction
            value = value + settings.kl_weight * penalty
        return (value * weights).sum(), (token.clipped * weights).sum().detach()

    def _part(self, whole: Tensor, micro: Batch, rows: list[int]) -> Tensor:
        """The rows of a micro-batch; zeros for one that counts for nothing."""
        if not rows:
            return torch.zeros(micro.ids.shape, device=micro.ids.device)
        return whole[rows, : micro.ids.shape[1]].to(micro.ids.device)

    def _beside(self, logp: Tensor, whole: Tensor, micro: Batch, rows: list[int]) -> Tensor:
        """Log-probs to be held against `logp`; its own where a token has no part in the loss.

        What stands there may be anything, and 0 times infinity is no number, in the backward pass
        neither.
        """
        usable = self._part(self.usable, micro, rows) > 0
        return torch.where(usable, self._part(whole, micro, rows), logp.detach())
