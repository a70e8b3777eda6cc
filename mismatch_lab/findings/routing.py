"""Routing agreement between the engine's prefill and the trainer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mismatch_lab.captures.align import align
from mismatch_lab.captures.capture import Capture
from mismatch_lab.findings.edges import record
from mismatch_lab.measures.routing import delta_by_flip, routing_agreement
from mismatch_lab.schema import LayerRouting, RoutingFindings

EDGE = "prefill_train"


def measure_routing(captures: Mapping[str, Capture]) -> RoutingFindings | None:
    """None for a dense model, or where a side recorded no routing.

    Choices are those made where the token before the scored one is the input: they shape the
    distribution that the scored token is drawn from.
    """
    infer, train = captures.get("prefill"), captures.get("train")
    if infer is None or train is None or infer.router_topk is None or train.router_topk is None:
        return None
    pairs = align(infer, train, ("prefill", "train"))
    before = pairs.flat - 1
    found = routing_agreement(infer.router_topk[before], train.router_topk[before], pairs.row_ids)
    delta = np.abs(pairs.logp_b.astype(np.float64) - pairs.logp_a)
    split = delta_by_flip(delta, found.flipped, found.recorded, pairs.row_ids)
    layers = zip(found.top1_agreement_per_layer, found.set_overlap_per_layer, strict=True)
    return RoutingFindings(
        edge=EDGE,
        top1_agreement=record(found.top1_agreement),
        set_overlap=record(found.set_overlap),
        flipped_token_share=record(found.flipped_token_share),
        abs_delta_flipped=record(split.flipped_abs_delta_mean),
        abs_delta_unflipped=record(split.unflipped_abs_delta_mean),
        per_layer=[
            LayerRouting(layer=i, top1_agreement=record(top1), set_overlap=record(overlap))
            for i, (top1, overlap) in enumerate(layers)
        ],
    )
