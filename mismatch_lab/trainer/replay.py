"""Routing replay in the trainer, and the trainer's own choices before it replays anything."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from mismatch_lab.engines.torch_routing import RoutingTap
from mismatch_lab.remedies import routing_replay
from mismatch_lab.trainer.batch import Batch
from mismatch_lab.trainer.measure import routing_agreement
from mismatch_lab.trainer.policy import Policy


def replay_routing(policy: Policy) -> None:
    """From now on every forward follows the engine's choices, where a batch has them.

    The policy and the KL's reference both do, or a policy would be at a distance from itself.
    """

    def around(batch: Batch) -> Any:
        if batch.routing is None:
            return nullcontext()
        return routing_replay.replaying(policy.bare, batch.routing)

    policy.around = around


class RoutingWatch:
    """Where replay is on: agreement of the trainer's own choices with the engine's."""

    def __init__(self, policy: Policy, on: bool) -> None:
        self.policy = policy
        self.on = on

    @torch.no_grad()
    def agreement(self, batch: Batch, rows: int = 8) -> dict[str, float]:
        """Set agreement of the trainer's own experts with the engine's, on the first rows."""
        if not self.on or batch.routing is None:
            return {}
        part = batch.take(range(min(rows, batch.n_rows)), self.policy.device)
        text = self.policy.bare.config.get_text_config()
        tap = RoutingTap(self.policy.bare, int(text.num_experts_per_tok))
        self.policy.model.eval()
        around, self.policy.around = self.policy.around, lambda _batch: nullcontext()
        try:
            with tap.attached():
                self.policy.forward(part)
        finally:
            self.policy.around = around
        chosen, _logits = tap.stacked()
        shape = (*part.ids.shape, *chosen.shape[1:])
        return routing_agreement(part, chosen.long().view(shape))
