"""One suspect: single tokens first, then the search, then which layers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from mismatch_lab.attribution.clues import Clues
from mismatch_lab.attribution.fit import Fit
from mismatch_lab.attribution.hypotheses import Explanation
from mismatch_lab.attribution.lab import Lab, OutOfTimeError
from mismatch_lab.attribution.layers import by_layers
from mismatch_lab.attribution.predictions import hypotheses_for
from mismatch_lab.attribution.pursuit import (
    MOSTLY,
    WORTHWHILE,
    Pursuit,
    Search,
    finite_mean_abs,
)
from mismatch_lab.attribution.simulate import World
from mismatch_lab.attribution.suspects import Charge
from mismatch_lab.attribution.token_changes import Float64
from mismatch_lab.attribution.token_patterns import TokenPattern, token_patterns
from mismatch_lab.captures.capture import Rows

SOME = 0.3
"""An explanation of this share may be one of two."""

EXPLORING_ROWS = 8
"""Rows on which hypotheses are compared; the outcome is checked on all."""


@dataclass
class Inquiry:
    """What an investigation found of one suspect."""

    charge: Charge
    patterns: list[TokenPattern]
    pursuit: Pursuit = field(default_factory=Pursuit)
    given: Explanation = ()
    """Defects that were known before the search."""
    left_nats: float = float("nan")
    """mean |error| once every pattern's tokens are left out and the best explanation is applied."""

    @property
    def explanation(self) -> Explanation:
        """Defects found by the search; empty where it found none."""
        best = self.pursuit.best
        return best.explanation if best is not None else ()

    @property
    def whole(self) -> Explanation:
        """All defects, known before or found."""
        return (*self.given, *self.explanation)

    @property
    def done(self) -> bool:
        """Whether nothing but noise is left."""
        return self.left_nats <= self.charge.noise_nats


def investigate(
    charge: Charge, clues: Clues, rows: Rows, world: World, given: Explanation
) -> Inquiry:
    """Find what explains a suspect.

    Args:
        charge: the suspect and what it is held against.
        clues: its circumstances.
        rows: the run's sequences.
        world: where hypotheses are tried.
        given: defects of the engine's re-scoring, which its sampling shares.
    """
    inquiry = Inquiry(charge, [], given=given)
    inquiry.left_nats = finite_mean_abs((charge.observed - charge.sound)[rows.sampled])
    if inquiry.done:
        return inquiry
    patterns = token_patterns(charge.observed, charge.sound, rows, charge.noise_nats)
    if not patterns:
        _search(inquiry, charge.observed, clues, rows, world, given)
        return inquiry
    masked = charge.observed.copy()
    for pattern in patterns:
        masked[pattern.tokens] = np.nan
    inquiry.left_nats = finite_mean_abs((masked - charge.sound)[rows.sampled])
    # A defect of all tokens can put the same number on several; it is the simpler answer.
    _search(inquiry, charge.observed, clues, rows, world, given)
    if inquiry.pursuit.best is not None and inquiry.pursuit.best.explained >= MOSTLY:
        return inquiry
    inquiry.patterns, inquiry.pursuit = patterns, Pursuit()
    inquiry.left_nats = finite_mean_abs((masked - charge.sound)[rows.sampled])
    if not inquiry.done:
        _search(inquiry, masked, clues, rows, world, given)
    return inquiry


def _search(
    inquiry: Inquiry,
    observed: Float64,
    clues: Clues,
    rows: Rows,
    world: World,
    given: Explanation,
) -> None:
    """Search on the first rows, then check on all."""
    charge = inquiry.charge
    inquiry.left_nats = finite_mean_abs((observed - charge.sound)[rows.sampled])
    explored = world.small(EXPLORING_ROWS) if rows.n_rows > EXPLORING_ROWS else world
    row_of = rows.row_ids()
    search = Search(explored, charge.sound, observed, row_of, charge.noise_nats, given)
    inquiry.pursuit = search.run(hypotheses_for(clues))
    if inquiry.pursuit.best is None or not search.enough(inquiry.pursuit.best):
        _try_layers(inquiry, search, clues)
    whole = Search(world, charge.sound, observed, row_of, charge.noise_nats, given)
    _check_on_all(inquiry, whole)


def _try_layers(inquiry: Inquiry, search: Search, clues: Clues) -> None:
    pursuit = inquiry.pursuit
    known = clues.first_wrong
    layers = tuple(range(clues.n_layers)) if known is None else (known,)
    hypotheses = hypotheses_for(clues)
    try:
        found = by_layers(search.judge, hypotheses, layers, clues.n_layers)
        _take_if_better(pursuit, found)
        first = pursuit.best
        if first is None or search.enough(first) or first.explained < SOME:
            return
        # A second defect may be in any layers, whichever the first is in.
        every = tuple(range(clues.n_layers))
        on_top = partial(_on_top, search, first.explanation)
        others = [h for h in hypotheses if h.cause not in {e.cause for e in first.explanation}]
        _take_if_better(pursuit, by_layers(on_top, others, every, clues.n_layers))
    except OutOfTimeError:
        pursuit.finished = False


def _on_top(search: Search, known: Explanation, further: Explanation) -> Fit | None:
    return search.judge((*known, *further))


def _take_if_better(pursuit: Pursuit, found: Fit | None) -> None:
    if found is None or found.explained <= 0:
        return
    if pursuit.best is None or found.residual_nats < WORTHWHILE * pursuit.best.residual_nats:
        pursuit.best, pursuit.ties = found, []


def _check_on_all(inquiry: Inquiry, search: Search) -> None:
    """Judge the outcome on all rows, and by itself on those that the search did not look at."""
    pursuit = inquiry.pursuit
    if pursuit.best is None:
        return
    try:
        whole = _judged_on_all(search, pursuit.best)
        pursuit.ties = [f for f in (_judged_on_all(search, t) for t in pursuit.ties) if f]
    except OutOfTimeError:
        pursuit.finished = False
        return
    if whole is not None:
        pursuit.best = whole
        inquiry.left_nats = whole.residual_nats


def _judged_on_all(search: Search, explored: Fit) -> Fit | None:
    whole = search.judge(explored.explanation)
    if whole is None:
        return None
    return replace(whole, unseen=search.unseen(explored, EXPLORING_ROWS).unseen)


def sound_in(lab: Lab, given: Explanation, charge: Charge, temperature: float) -> Charge:
    """The charge held against what a program with the given defects says.

    As it is where the model has no such part, or the budget ended before that was computed.
    """
    try:
        prediction = World(lab, None, temperature).predict(given)
    except OutOfTimeError:
        return charge
    if prediction is None:
        return charge
    sound = np.full(len(charge.observed), np.nan)
    sound[prediction.flat] = prediction.logp
    error = finite_mean_abs((charge.observed - sound)[prediction.flat])
    return replace(charge, sound=sound, error_nats=error)
