"""A defect in some layers only: which ones."""

from __future__ import annotations

from mismatch_lab.attribution.fit import Fit
from mismatch_lab.attribution.hypotheses import Hypothesis
from mismatch_lab.attribution.tune import Judge

CANDIDATES = 4
"""Hypotheses that are tried layer by layer: those that share most with the suspect's error."""

FURTHER = 0.7
"""A further layer must leave at most this share of what the layers before it leave."""


def by_layers(judge: Judge, tried: list[Fit], n_layers: int) -> Fit | None:
    """The best explanation by one hypothesis in a subset of layers; None where none applies."""
    ordered = sorted(tried, key=lambda found: -max(found.shared, found.explained))
    candidates = [f.explanation[0] for f in ordered if _layered(f.explanation[0])][:CANDIDATES]
    found = [f for h in candidates if (f := _grown(judge, h, n_layers)) is not None]
    return min(found, key=lambda f: f.residual_nats, default=None)


def _layered(hypothesis: Hypothesis) -> bool:
    return hypothesis.part is not None and bool(hypothesis.model)


def _grown(judge: Judge, hypothesis: Hypothesis, n_layers: int) -> Fit | None:
    """The best layer, and then every further one that helps."""
    alone = {
        layer: fit
        for layer in range(n_layers)
        if (fit := judge((hypothesis.in_layers((layer,)),))) is not None
    }
    if not alone:
        return None
    order = sorted(alone, key=lambda layer: alone[layer].residual_nats)
    chosen, best = (order[0],), alone[order[0]]
    for layer in order[1:]:
        if alone[layer].shared < 0.01:
            continue
        wider = judge((hypothesis.in_layers(tuple(sorted((*chosen, layer)))),))
        if wider is None or wider.residual_nats > FURTHER * best.residual_nats:
            break
        chosen, best = tuple(sorted((*chosen, layer))), wider
    return best
