"""Agreement of the engine's routing with the trainer's, and of each with the reference's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mismatch_lab.captures.align import align
from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.names import canonical_name
from mismatch_lab.findings.edges import EDGES, record
from mismatch_lab.measures.routing import delta_by_flip, routing_agreement
from mismatch_lab.schema import LayerRouting, RoutingFindings

_ROUTER = re.compile(r"model\.layers\.(\d+)\.mlp\.(?:router|gate)(?:\.|$)")

EDGE = "prefill_train"
TO_REFERENCE = ("infer_ref", "train_ref")


def of_routers(captures: Mapping[str, Capture]) -> dict[str, Capture]:
    """The same, with choices of layers that have a router alone: some engines count every layer.

    Which have one is told by the names of the reference's tensors.
    """
    reference = captures.get("ref")
    if reference is None or reference.router_topk is None:
        return dict(captures)
    held = router_layers(reference)

    def chosen(capture: Capture) -> Capture:
        topk = capture.router_topk
        if topk is None or topk.shape[1] == len(held) or not held or topk.shape[1] <= max(held):
            return capture
        return replace(capture, router_topk=topk[:, held])

    return {name: chosen(capture) for name, capture in captures.items()}


def router_layers(capture: Capture) -> list[int]:
    """Numbers of the decoder layers that hold a router, as the names of the weights tell."""
    names = (canonical_name(name.rpartition(".")[0]) for name in capture.weights)
    return sorted({int(found[1]) for name in names if (found := _ROUTER.match(name))})


def measure_routing(captures: Mapping[str, Capture], edge: str = EDGE) -> RoutingFindings | None:
    """None for a dense model, or where a side of the edge recorded no routing.

    Choices are those made where the token before the scored one is the input: they shape the
    distribution that the scored token is drawn from.
    """
    names = EDGES[edge]
    infer, train = (captures.get(name) for name in names)
    if infer is None or train is None or infer.router_topk is None or train.router_topk is None:
        return None
    if infer.router_topk.shape[1] != train.router_topk.shape[1]:
        return None  # one of them counts layers without a router: nothing is paired
    pairs = align(infer, train, names)
    before = pairs.flat - 1
    found = routing_agreement(infer.router_topk[before], train.router_topk[before], pairs.row_ids)
    delta = np.abs(pairs.logp_b.astype(np.float64) - pairs.logp_a)
    split = delta_by_flip(delta, found.flipped, found.recorded, pairs.row_ids)
    layers = zip(found.top1_agreement_per_layer, found.set_overlap_per_layer, strict=True)
    return RoutingFindings(
        edge=edge,
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
