"""What a side's routers chose, against their own logits and against the reference's choices."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.attribution.expert_changes import after_change, changed_sets, finite_mean
from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.names import canonical_name

DIRECTED = 0.5
"""Share of changed choices that go one way, expert by expert: chance is near 0, a bias near 1."""

_ROUTER = re.compile(r"model\.layers\.(\d+)\.mlp\.(?:router|gate)(?:\.|$)")

CORRECTED = 0.02
"""Share of a layer's choices against its logits from which on the reference's router corrects them:
fewer may be rounding."""

TIED = 1e-6
NEAR_TIE = 0.3
"""A margin this many times the spread of a token's router logits is a near-tie."""


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
    """Relative error of the first router's logits against the reference's."""


def router_choices(side: Capture, reference: Capture) -> RouterChoices | None:
    """None for a dense model, or where routing was not recorded."""
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
    corrects = of_reference.mean(axis=0) >= CORRECTED
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


def _against_own(
    topk: NDArray[np.int16], logits: NDArray[np.float32], plain: NDArray[np.bool_]
) -> tuple[float, float, float, int | None]:
    """(share against the own logits, how directed, median relative margin, first such layer), in
    the layers that `plain` ([L]) marks.
    """
    wrong = _is_against(topk, logits) & plain
    if not wrong.any():
        return 0.0, 0.0, float("nan"), None
    best, chosen = _best(topk, logits), np.sort(topk.astype(np.int64), axis=-1)
    experts = logits.shape[-1]
    net = np.zeros((topk.shape[1], experts))
    moved, margins = 0, []
    for token, layer in zip(*np.nonzero(wrong), strict=True):
        came = np.setdiff1d(chosen[token, layer], best[token, layer])
        went = np.setdiff1d(best[token, layer], chosen[token, layer])
        net[layer, came] += 1
        net[layer, went] -= 1
        moved += 2 * len(came)
        row = logits[token, layer]
        margins.append((row[went].min() - row[came].max()) / max(float(row.std()), 1e-30))
    return (
        float(wrong.mean()),
        float(np.abs(net).sum() / moved),
        float(np.median(margins)),
        _first(wrong),
    )


def layer_number(index: int | None, capture: Capture, layers: int) -> int | None:
    """Number of the decoder layer that holds the router of an index; some layers have none.

    The names of the weights tell; without them every layer is taken to have one.
    """
    names = (canonical_name(name.rpartition(".")[0]) for name in capture.weights)
    holding = {int(found[1]) for name in names if (found := _ROUTER.match(name))}
    if index is None or len(holding) != layers:
        return index
    return sorted(holding)[index]


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
        given_up > TIED * logits.std(axis=-1)
    )
    return against
