"""What a side's routers chose, against their own logits and against the reference's choices; and
which tokens a changed choice reaches: every later one of its row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.attribution.thresholds import THRESHOLDS
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.findings.routing import router_layers


def changed_sets(a: NDArray[np.int16], b: NDArray[np.int16]) -> NDArray[np.bool_]:
    """[T, L] whether two sides chose different sets of experts; their order does not count.

    Args:
        a: [T, L, K] choices of one side.
        b: [T, L, K'] choices of the other; sets of different sizes differ.
    """
    if a.shape[-1] != b.shape[-1]:
        return np.ones(a.shape[:-1], bool)
    return np.asarray((np.sort(a, axis=-1) != np.sort(b, axis=-1)).any(axis=-1))


def after_change(changed: NDArray[np.bool_], rows: Rows) -> NDArray[np.bool_]:
    """[T] whether a choice changed at the input before this token or earlier in its row.

    Args:
        changed: [T] whether any layer chose otherwise where token t is the input.
        rows: the sequences.
    """
    touched = np.zeros(len(changed), bool)
    for start, stop in rows.spans():
        so_far = np.logical_or.accumulate(changed[start:stop])
        touched[start + 1 : stop] = so_far[:-1]  # a log-prob comes from the input before it
    return touched


def finite_mean(values: NDArray[np.float64]) -> float:
    """Mean of the finite values; NaN without any."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


@dataclass(frozen=True)
class RouterChoices:
    """Choices of one side."""

    against_own_logits: float
    """Share of choices (token, layer) that are not the top-k of the router's own logits, in layers
    where the reference's are: a router that adds a correction bias, or picks groups first, goes
    against them on both sides alike."""
    directed: float
    """Of those, how one-sidedly experts gain or lose, 0 to 1."""
    margin: float
    """Median margin given up by those choices, over the spread of logits; NaN without any."""
    first_layer: int | None
    """The first decoder layer with such a choice."""
    uncorrected: float
    """Share of choices that follow the own logits where the reference's go against its own; 0 where
    this side goes against them anywhere in those layers."""
    first_uncorrected: int | None
    """The first decoder layer with such a choice."""
    changed: float
    """Share of tokens for which some layer chose another set than the reference."""
    quiet_nats: float
    """mean |delta| of tokens before any change of choices in their row."""
    loud_nats: float
    """mean |delta| of the others."""
    gate_error: float
    """Relative error of the first router's logits against the reference's; NaN where the side's
    were not recorded."""
    by_reference: bool = False
    """Whether the side's own logits were not recorded: choices are then held against the
    reference's, where no other one came before in the row that could have changed the input."""


def router_choices(
    side: Capture, reference: Capture, floor: Capture | None = None
) -> RouterChoices | None:
    """None for a dense model, or where routing was not recorded.

    Args:
        side: whose routers are asked about.
        reference: with logits.
        floor: the reference in the sides' precision, where choices alone were recorded: what it
            chooses otherwise is precision.
    """
    if side.router_logits is None:
        return _choices_alone(side, reference, floor)
    arrays = (side.router_topk, side.router_logits, reference.router_topk, reference.router_logits)
    if any(array is None for array in arrays):
        return None
    assert side.router_topk is not None
    assert side.router_logits is not None
    assert reference.router_topk is not None
    assert reference.router_logits is not None
    recorded = (side.router_topk >= 0).all(axis=(1, 2)) & (reference.router_topk >= 0).all(
        axis=(1, 2)
    )
    own = side.router_topk[recorded], side.router_logits[recorded]
    of_reference = _is_against(reference.router_topk[recorded], reference.router_logits[recorded])
    plain = np.asarray(~of_reference.any(axis=0))
    share, directed, margin, first_layer = _against_own(*own, plain)
    corrects = of_reference.mean(axis=0) >= THRESHOLDS.corrected_share
    uncorrected = of_reference & corrects & ~_is_against(*own).any(axis=0)
    topk_layers = side.router_topk.shape[1]
    choices = changed_sets(side.router_topk, reference.router_topk)
    changed = np.asarray(choices.any(axis=1) & recorded)
    touched = after_change(changed, side.rows)
    delta = np.abs(side.logp.astype(np.float64) - reference.logp)
    first, other = side.router_logits[recorded, 0], reference.router_logits[recorded, 0]
    return RouterChoices(
        share,
        directed,
        margin,
        layer_number(first_layer, reference, topk_layers),
        float(uncorrected.mean()) if uncorrected.size else 0.0,
        layer_number(_first(uncorrected), reference, topk_layers),
        float(changed[recorded].mean()) if recorded.any() else float("nan"),
        finite_mean(delta[~touched]),
        finite_mean(delta[touched]),
        float(np.linalg.norm(first - other) / max(float(np.linalg.norm(other)), 1e-30)),
    )


def _choices_alone(
    side: Capture, reference: Capture, floor: Capture | None
) -> RouterChoices | None:
    """From choices without logits; None where precision chooses otherwise as often."""
    known = (side.router_topk, reference.router_topk, reference.router_logits)
    if floor is None or floor.router_topk is None or any(array is None for array in known):
        return None
    assert side.router_topk is not None
    assert reference.router_topk is not None
    assert reference.router_logits is not None
    if len({one.shape[1:] for one in (side.router_topk, reference.router_topk)}) > 1:
        return None
    recorded = np.asarray((side.router_topk >= 0).all(axis=(1, 2)))
    seen = recorded[:, None]
    changed = np.logical_and(changed_sets(side.router_topk, reference.router_topk), seen)
    first = np.logical_and(changed, ~reached(changed, side.rows))
    by_precision = np.logical_and(changed_sets(floor.router_topk, reference.router_topk), seen)
    of_precision = int(np.logical_and(by_precision, ~reached(by_precision, side.rows)).sum())
    if not first.sum() > THRESHOLDS.choices_over_floor * of_precision:
        return None
    expected = side.router_topk, reference.router_topk, reference.router_logits
    directed, margin = _moved(first, *expected)
    any_layer = np.asarray(changed.any(axis=1))
    touched = after_change(any_layer, side.rows)
    delta = np.abs(side.logp.astype(np.float64) - reference.logp)
    return RouterChoices(
        against_own_logits=float(first[recorded].mean()),
        directed=directed,
        margin=margin,
        first_layer=layer_number(_first(first), reference, first.shape[1]),
        uncorrected=0.0,
        first_uncorrected=None,
        changed=float(any_layer[recorded].mean()),
        quiet_nats=finite_mean(delta[~touched]),
        loud_nats=finite_mean(delta[touched]),
        gate_error=float("nan"),
        by_reference=True,
    )


def reached(changed: NDArray[np.bool_], rows: Rows) -> NDArray[np.bool_]:
    """[T, L] whether another choice came before that shapes this router's input: in a layer below,
    at this token or an earlier one of its row.

    Args:
        changed: [T, L] whether a router chose otherwise.
        rows: the sequences.
    """
    below = np.zeros_like(changed)
    below[:, 1:] = np.logical_or.accumulate(changed, axis=1)[:, :-1]
    for start, stop in rows.spans():
        below[start:stop] = np.logical_or.accumulate(below[start:stop], axis=0)
    return below


def _moved(
    chosen: NDArray[np.bool_],
    topk: NDArray[np.int16],
    expected: NDArray[np.integer[Any]],
    logits: NDArray[np.float32],
) -> tuple[float, float]:
    """(how one-sidedly experts gain, median margin given up over the spread of the logits) at the
    marked (token, layer), where `topk` is chosen and `expected` was to be by the logits.
    """
    net = np.zeros((topk.shape[1], logits.shape[-1]))
    moved, margins = 0, []
    for token, layer in zip(*np.nonzero(chosen), strict=True):
        came = np.setdiff1d(topk[token, layer], expected[token, layer])
        went = np.setdiff1d(expected[token, layer], topk[token, layer])
        net[layer, came] += 1
        net[layer, went] -= 1
        moved += len(came) + len(went)
        row = logits[token, layer]
        margins.append((row[went].min() - row[came].max()) / max(float(row.std()), 1e-30))
    return float(np.abs(net).sum() / max(moved, 1)), float(np.median(margins))


def _against_own(
    topk: NDArray[np.int16], logits: NDArray[np.float32], plain: NDArray[np.bool_]
) -> tuple[float, float, float, int | None]:
    """(share against the own logits, how directed, median relative margin, first such layer), in
    the layers that `plain` ([L]) marks.
    """
    wrong = _is_against(topk, logits) & plain
    if not wrong.any():
        return 0.0, 0.0, float("nan"), None
    return float(wrong.mean()), *_moved(wrong, topk, _best(topk, logits), logits), _first(wrong)


def layer_number(index: int | None, capture: Capture, layers: int) -> int | None:
    """Number of the decoder layer that holds the router of an index; some layers have none.

    The names of the weights tell; without them every layer is taken to have one.
    """
    holding = router_layers(capture)
    return index if index is None or len(holding) != layers else holding[index]


def _first(marked: NDArray[np.bool_]) -> int | None:
    """The first layer of [T, L] with any mark."""
    layers = np.flatnonzero(marked.any(axis=0))
    return int(layers[0]) if len(layers) else None


def _best(topk: NDArray[np.int16], logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """[T, L, K] experts with the largest logits, as many as were chosen, ascending."""
    order = np.argsort(-logits, axis=-1, kind="stable")
    return np.sort(order[..., : topk.shape[-1]], axis=-1)


def _is_against(topk: NDArray[np.int16], logits: NDArray[np.float32]) -> NDArray[np.bool_]:
    """[T, L] whether the choice is not of the largest logits. Equal logits may go either way."""
    best, chosen = _best(topk, logits), np.sort(topk.astype(np.int64), axis=-1)
    given_up = np.take_along_axis(logits, best, -1).sum(-1) - np.take_along_axis(
        logits, chosen, -1
    ).sum(-1)
    against: NDArray[np.bool_] = (best != chosen).any(axis=-1) & (
        given_up > THRESHOLDS.tied_margin * logits.std(axis=-1)
    )
    return against
