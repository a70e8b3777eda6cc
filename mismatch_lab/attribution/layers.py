"""A defect in some layers only: which ones."""

from __future__ import annotations

from mismatch_lab.attribution.fit import Fit
from mismatch_lab.attribution.hypotheses import Hypothesis
from mismatch_lab.attribution.tune import Judge, tuned

MOST_LAYERS = 12
"""Without a located layer, so many are tried, spread over the model."""

FURTHER = 0.7
"""A further layer must leave at most this share of what the layers before it leave."""

PART_OF_IT = 0.1
"""A hypothesis that shares less with the error, in its best layer, is not carried on."""


def by_layers(
    judge: Judge, hypotheses: list[Hypothesis], start: tuple[int, ...], n_layers: int
) -> Fit | None:
    """The best explanation by one hypothesis in a subset of layers; None where none applies.

    Args:
        judge: of explanations.
        hypotheses: all that could be; those without layers are left out.
        start: layers to begin with: the first wrong one where it is known.
        n_layers: of the model.
    """
    step = max(1, -(-len(start) // MOST_LAYERS))
    found = [
        grown
        for hypothesis in hypotheses
        if hypothesis.part is not None and hypothesis.model
        if (grown := _grown(judge, hypothesis, start[::step], n_layers)) is not None
    ]
    return min(found, key=lambda f: (f.residual_nats, f.fitted), default=None)


def _grown(
    judge: Judge, hypothesis: Hypothesis, start: tuple[int, ...], n_layers: int
) -> Fit | None:
    """The best first layer, and then every further one that helps."""
    alone = [
        (fit, layer)
        for layer in start
        if (fit := tuned(judge, (), hypothesis.in_layers((layer,)))) is not None
    ]
    if not alone:
        return None
    best, layer = min(alone, key=lambda pair: pair[0].residual_nats)
    if max(best.shared, best.explained) < PART_OF_IT:
        return None
    chosen: tuple[int, ...] = (layer,)
    fixed = best.explanation[-1]
    for further in range(n_layers):
        if further in chosen:
            continue
        layers = tuple(sorted((*chosen, further)))
        wider = judge((hypothesis_in(fixed, hypothesis, layers),))
        if wider is not None and wider.residual_nats <= FURTHER * best.residual_nats:
            chosen, best = layers, wider
    return best


def hypothesis_in(tuned_one: Hypothesis, plain: Hypothesis, layers: tuple[int, ...]) -> Hypothesis:
    """The hypothesis in these layers, with the number that was found for one of them."""
    placed = plain.in_layers(layers)
    value = tuned_one.value
    return placed if value is None or plain.search is None else placed.at(float(value))
