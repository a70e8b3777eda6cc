"""What one update minimises, put together from GRPO's parts and the fixes that are on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mismatch_lab.remedies import on_policy_ratio, rollout_correction
from mismatch_lab.trainer.batch import Batch
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.grpo import clipped_policy_loss, k3_penalty, loss_weights


@dataclass(frozen=True)
class Objective:
    """Constant parts of an update, [R, n] over all rows of the step."""

    config: TrainConfig
    logp_scored: Tensor
    """Of the trainer's scoring pass."""
    logp_infer: Tensor
    logp_ref: Tensor | None
    weights: Tensor
    """Sum to 1 over the step, times the correction's."""
    correction: Tensor | None

    @classmethod
    def of(
        cls, config: TrainConfig, batch: Batch, logp_scored: Tensor, logp_ref: Tensor | None
    ) -> Objective:
        """The parts that do not change while the step's updates are made."""
        weights = loss_weights(batch.mask, config.loss.mean)
        correction = None
        if "rollout-correction" in config.fixes:
            correction = rollout_correction.weights(
                logp_scored, batch.logp_infer, batch.mask, config.correction
            )
        return cls(config, logp_scored, batch.logp_infer, logp_ref, weights, correction)

    def rows_that_count(self, batch: Batch) -> list[int]:
        """Rows with a gradient: one whose advantage is 0 has none, unless the KL pulls at it."""
        if self.logp_ref is not None:
            return list(range(batch.n_rows))
        return [row for row in range(batch.n_rows) if float(batch.advantages[row]) != 0]

    def loss(
        self, logp: Tensor, micro: Batch, rows: list[int], update: int
    ) -> tuple[Tensor, Tensor]:
        """A micro-batch's share of the loss, and how much weight of it the clip took away.

        The shares of all micro-batches add up to the loss of the step.
        """
        settings = self.config.loss
        scored, weights = (
            self._part(self.logp_scored, micro, rows),
            self._part(self.weights, micro, rows),
        )
        old = scored if settings.old == "scored" else micro.logp_infer
        if "on-policy-ratio" in self.config.fixes:
            old = on_policy_ratio.old_logp(logp, old, update)
        token = clipped_policy_loss(
            logp, old, micro.advantages, settings.clip_low, settings.clip_high
        )
        value = token.loss
        if self.correction is not None:
            value = value * self._part(self.correction, micro, rows)
        if self.logp_ref is not None:
            value = value + settings.kl_weight * k3_penalty(
                logp, self._part(self.logp_ref, micro, rows)
            )
        # Outside the mask a value may be anything, and 0 times infinity is no number.
        value = torch.where(micro.mask > 0, value, 0.0)
        return (value * weights).sum(), (token.clipped * weights).sum().detach()

    def _part(self, whole: Tensor, micro: Batch, rows: list[int]) -> Tensor:
        """The rows of a micro-batch; zeros for one that counts for nothing."""
        if not rows:
            return torch.zeros(micro.ids.shape, device=micro.ids.device)
        return whole[rows, : micro.ids.shape[1]].to(micro.ids.device)
