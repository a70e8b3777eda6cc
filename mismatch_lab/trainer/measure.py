"""The toolkit's measures, live: the same functions under the same names as `diagnose`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mismatch_lab.engines.torch_routing import RoutingTap
from mismatch_lab.measures.aggregate import DeltaAggregate
from mismatch_lab.trainer.batch import Batch
from mismatch_lab.trainer.policy import Policy

TWO_PASS = "train_train"
"""The trainer's scoring pass against its gradient pass, before any step was made."""


def edge_measures(
    edge: str, logp_infer: Tensor, logp_train: Tensor, mask: Tensor
) -> dict[str, float]:
    """Every measure of an edge on the sampled tokens, as `EDGE/NAME`, with its counts.

    Args:
        edge: the name in front.
        logp_infer: [R, n]; of `train_train` the scoring pass.
        logp_train: [R, n].
        mask: [R, n], 1 on sampled tokens.
    """
    chosen = mask.bool().numpy()
    rows = np.repeat(np.arange(len(chosen)), chosen.sum(axis=1))
    found = DeltaAggregate.of(logp_infer.numpy()[chosen], logp_train.numpy()[chosen], rows)
    return found.values(edge)


def routing_agreement(batch: Batch, own: Tensor | None) -> dict[str, float]:
    """Share of (token, layer) places where the trainer's own experts are the engine's.

    Args:
        batch: with the engine's choices.
        own: [R, n, L, K] the trainer's, or None.
    """
    if batch.routing is None or own is None:
        return {}
    known = (batch.routing >= 0).all(dim=-1)
    same = (batch.routing.sort(dim=-1).values == own.sort(dim=-1).values).all(dim=-1)
    n = int(known.sum())
    value = float((same & known).sum()) / n if n else float("nan")
    return {"routing/set_agreement": value, "routing/n": n}


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
