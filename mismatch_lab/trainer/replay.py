"""What the trainer's routers choose by themselves, where the engine's choices are replayed."""

from __future__ import annotations

import torch

from mismatch_lab.engines.torch_routing import RoutingTap
from mismatch_lab.trainer.batch import Batch
from mismatch_lab.trainer.measure import routing_agreement
from mismatch_lab.trainer.policy import Policy


@torch.no_grad()
def own_routing(policy: Policy, batch: Batch, rows: int = 8) -> dict[str, float]:
    """Set agreement of the trainer's own experts with the engine's, on the first rows; empty where
    the engine's are not recorded.
    """
    if batch.routing is None:
        return {}
    part = batch.take(range(min(rows, batch.n_rows)), policy.device)
    text = policy.bare.config.get_text_config()
    tap = RoutingTap(policy.bare, int(text.num_experts_per_tok))
    policy.model.eval()
    with tap.attached():
        policy.forward(part, fixed=False)
    chosen, _logits = tap.stacked()
    shape = (*part.ids.shape, *chosen.shape[1:])
    return routing_agreement(part, chosen.long().view(shape))
