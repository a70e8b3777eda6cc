"""Agreement of expert choices in mixture-of-experts layers, and what flips cost.

Definitions after MaxText's router report (top-1 agreement, |A and B| / k) and Observatory
(tokens with at least one layer whose top-k set differs). A choice of -1 was not recorded: a
(token, layer) counts only if all k choices of both sides are there.
"""

from dataclasses import dataclass

import numpy as np

from mismatch_lab.measures.rows import (
    AnyFloats,
    AnyInts,
    BoolArray,
    FloatArray,
    check_lengths,
    check_shapes,
    row_starts,
)
from mismatch_lab.measures.stats import Estimate, mean_estimate, ratio_estimates


@dataclass(frozen=True)
class RoutingAgreement:
    """Agreement of two recordings of router choices.

    Attributes:
        top1_agreement: share of (token, layer) whose first choice is the same.
        set_overlap: mean over (token, layer) of |A and B| / k, of the larger k where they differ.
        flipped_token_share: share of tokens with a flipped layer, among those recorded at all.
        top1_agreement_per_layer: one estimate for each of L layers.
        set_overlap_per_layer: one estimate for each of L layers.
        flipped: bool [T], tokens with at least one recorded layer whose expert set differs.
        recorded: bool [T], tokens with at least one recorded layer.
    """

    top1_agreement: Estimate
    set_overlap: Estimate
    flipped_token_share: Estimate
    top1_agreement_per_layer: tuple[Estimate, ...]
    set_overlap_per_layer: tuple[Estimate, ...]
    flipped: BoolArray
    recorded: BoolArray


@dataclass(frozen=True, slots=True)
class FlipDelta:
    """Mean |delta| (nats) of tokens whose routing flipped and of those whose did not."""

    flipped_abs_delta_mean: Estimate
    unflipped_abs_delta_mean: Estimate


def routing_agreement(
    router_topk_infer: AnyInts, router_topk_train: AnyInts, row_ids: AnyInts
) -> RoutingAgreement:
    """Compare the experts each side chose.

    Args:
        router_topk_infer: int [T, L, K], experts in order of preference; -1 = not recorded.
        router_topk_train: int [T, L, K'].
        row_ids: int [T], ascending.

    Returns:
        Estimates whose `n` counts (token, layer) pairs, or tokens for `flipped_token_share`, and
        whose `n_dropped` counts those not recorded.

    Raises:
        ValueError: tokens or layers differ, shapes are not [T, L, K], or `row_ids` does not ascend.
    """
    check_shapes(
        router_topk_infer=router_topk_infer[..., :1], router_topk_train=router_topk_train[..., :1]
    )
    if router_topk_infer.ndim != 3 or router_topk_infer.shape[2] == 0:
        raise ValueError(f"router choices must be [T, L, K], got {list(router_topk_infer.shape)}")
    check_lengths(router_topk_infer=router_topk_infer, row_ids=row_ids)
    seen: BoolArray = _recorded(router_topk_infer) & _recorded(router_topk_train)
    top1: BoolArray = router_topk_infer[:, :, 0] == router_topk_train[:, :, 0]
    overlap = _set_overlap(router_topk_infer, router_topk_train)
    top1_layers, top1_all = _by_layer(top1, seen, row_ids)
    overlap_layers, overlap_all = _by_layer(overlap, seen, row_ids)
    recorded: BoolArray = np.any(seen, axis=1)
    flipped: BoolArray = np.any(seen & (overlap < 1), axis=1)
    return RoutingAgreement(
        top1_agreement=top1_all,
        set_overlap=overlap_all,
        flipped_token_share=mean_estimate(np.where(recorded, flipped, np.nan), row_ids),
        top1_agreement_per_layer=top1_layers,
        set_overlap_per_layer=overlap_layers,
        flipped=flipped,
        recorded=recorded,
    )


def delta_by_flip(
    delta: AnyFloats, flipped: BoolArray, recorded: BoolArray, row_ids: AnyInts
) -> FlipDelta:
    """Mean |delta| of flipped and of unflipped tokens; unrecorded tokens are in neither.

    Args:
        delta: float [T], nats, for the tokens that `flipped` describes.
        flipped: bool [T].
        recorded: bool [T].
        row_ids: int [T], ascending.

    Raises:
        ValueError: lengths differ or `row_ids` does not ascend.
    """
    check_lengths(delta=delta, flipped=flipped, recorded=recorded, row_ids=row_ids)
    unflipped = recorded & ~flipped
    abs_delta = np.abs(delta)
    return FlipDelta(
        mean_estimate(abs_delta[flipped], row_ids[flipped]),
        mean_estimate(abs_delta[unflipped], row_ids[unflipped]),
    )


def _set_overlap(infer: AnyInts, train: AnyInts) -> FloatArray:
    """|A and B| / k at each (token, layer): [T, L, K] twice -> float64 [T, L]."""
    shared: FloatArray = np.zeros(infer.shape[:2])
    for choice in range(infer.shape[2]):
        shared += (infer[:, :, choice : choice + 1] == train).any(axis=2)
    overlap: FloatArray = shared / max(infer.shape[2], train.shape[2])
    return overlap


def _recorded(topk: AnyInts) -> BoolArray:
    """[T, L] whether every choice of a token is there."""
    recorded: BoolArray = np.all(topk >= 0, axis=2)
    return recorded


def _by_layer(
    values: FloatArray | BoolArray, seen: BoolArray, row_ids: AnyInts
) -> tuple[tuple[Estimate, ...], Estimate]:
    """Means of values [T, L] where `seen` [T, L]: for each layer, and over all layers."""
    starts = row_starts(row_ids)
    counted = np.where(seen, values, 0.0)
    if len(starts):
        sums = np.add.reduceat(counted, starts, axis=0)
        counts = np.add.reduceat(seen, starts, axis=0, dtype=np.float64)
    else:
        sums = counts = np.zeros((0, seen.shape[1]))
    dropped = (~seen).sum(axis=0)
    sums = np.concatenate([sums, sums.sum(axis=1, keepdims=True)], axis=1)
    counts = np.concatenate([counts, counts.sum(axis=1, keepdims=True)], axis=1)
    estimates = ratio_estimates(sums, counts, [*dropped.tolist(), int(dropped.sum())])
    return estimates[:-1], estimates[-1]
