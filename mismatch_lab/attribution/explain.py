"""One suspect: single tokens first, then the search, then which layers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from mismatch_lab.attribution.changes import Float64
from mismatch_lab.attribution.context import Context, features_of
from mismatch_lab.attribution.fit import Fit
from mismatch_lab.attribution.hypotheses import Explanation, Features
from mismatch_lab.attribution.predictions import hypotheses_for
from mismatch_lab.attribution.search import Outcome, Search, by_layers, finite_mean_abs
from mismatch_lab.attribution.simulate import OutOfTimeError, Predictor, Simulator
from mismatch_lab.attribution.suspects import Suspect
from mismatch_lab.attribution.thresholds import THRESHOLDS
from mismatch_lab.attribution.token_patterns import TokenPattern, token_patterns
from mismatch_lab.attribution.value_grids import cause_of_grid, rounded_expected, value_grid
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.schema import Cause


@dataclass(frozen=True)
class Simulated:
    """What simulation found of one suspect."""

    suspect: Suspect
    patterns: list[TokenPattern]
    outcome: Outcome = field(default_factory=Outcome)
    known_defects: Explanation = ()
    """Defects that were known before the search."""
    left_nats: float = float("nan")
    """mean |error| once every pattern's tokens are left out and the best explanation is applied."""
    formats: tuple[Cause, ...] = ()
    """The coarse format that all log-probs come in, if they do."""

    @property
    def explanation(self) -> Explanation:
        """Defects found by the search; empty where it found none."""
        best = self.outcome.best
        return best.explanation if best is not None else ()

    @property
    def whole(self) -> Explanation:
        """All defects, known before or found."""
        return (*self.known_defects, *self.explanation)

    @property
    def done(self) -> bool:
        """Whether nothing but noise is left."""
        return self.left_nats <= self.suspect.noise_nats


def simulate(
    context: Context, suspect: Suspect, known_defects: Explanation = (), own: Capture | None = None
) -> Simulated:
    """Look for what explains a suspect: defects of a sound program, tried one after another.

    Args:
        context: the run.
        suspect: the suspect.
        known_defects: defects that are known already.
        own: a right capture of the suspect's own, where it is not held against the reference.
    """
    rows = context.measured.captures["decode"].rows
    formats: tuple[Cause, ...] = ()
    grid = value_grid(suspect.observed, rows)
    if grid is not None:
        known_defects = (*known_defects, grid.hypothesis)
        rounded = rounded_expected(suspect, grid, rows)
        formats = (cause_of_grid(suspect, grid, rounded.error_nats),)
        suspect = rounded
    predictor = Predictor(context.simulator, own, context.temperature)
    found = explain(suspect, features_of(context, suspect), rows, predictor, known_defects)
    return replace(found, formats=formats)


def explain(
    suspect: Suspect,
    features: Features,
    rows: Rows,
    predictor: Predictor,
    known_defects: Explanation,
) -> Simulated:
    """Find what explains a suspect.

    Args:
        suspect: the suspect and what it is held against.
        features: its circumstances.
        rows: the run's sequences.
        predictor: where hypotheses are tried.
        known_defects: defects that are known to hold already.
    """
    plain = Simulated(
        suspect, [], known_defects=known_defects, left_nats=_left(suspect, suspect.observed, rows)
    )
    if plain.done:
        return plain
    patterns = token_patterns(suspect.observed, suspect.expected, rows, suspect.noise_nats)
    # A defect of all tokens can put the same number on several; it is the simpler answer.
    every = _searched(suspect, suspect.observed, features, rows, predictor, known_defects)
    best = every.outcome.best
    if not patterns or (best is not None and best.explained >= THRESHOLDS.mostly_explained):
        return every
    masked = suspect.observed.copy()
    for pattern in patterns:
        masked[pattern.tokens] = np.nan
    rest = Simulated(
        suspect, patterns, known_defects=known_defects, left_nats=_left(suspect, masked, rows)
    )
    if rest.done:
        return rest
    return replace(
        _searched(suspect, masked, features, rows, predictor, known_defects), patterns=patterns
    )


def _left(suspect: Suspect, observed: Float64, rows: Rows) -> float:
    return finite_mean_abs((observed - suspect.expected)[rows.sampled])


def _searched(
    suspect: Suspect,
    observed: Float64,
    features: Features,
    rows: Rows,
    predictor: Predictor,
    known_defects: Explanation,
) -> Simulated:
    """Search on the first rows, then check on all."""
    explored = (
        predictor.small(THRESHOLDS.exploring_rows)
        if rows.n_rows > THRESHOLDS.exploring_rows
        else predictor
    )
    row_of = rows.row_ids()
    search = Search(explored, suspect.expected, observed, row_of, suspect.noise_nats, known_defects)
    outcome = search.run(hypotheses_for(features), features.first_wrong_part)
    if outcome.best is None or not search.enough(outcome.best):
        outcome = _with_layers(outcome, search, features)
    whole = Search(predictor, suspect.expected, observed, row_of, suspect.noise_nats, known_defects)
    outcome, left = _checked_on_all(outcome, whole)
    if left is None:
        left = _left(suspect, observed, rows)
    return Simulated(suspect, [], outcome, known_defects, left)


def _with_layers(outcome: Outcome, search: Search, features: Features) -> Outcome:
    """The outcome with defects in single layers, where they explain more."""
    known = features.first_wrong
    layers = tuple(range(features.n_layers)) if known is None else (known,)
    hypotheses = hypotheses_for(features)
    try:
        outcome = _better(outcome, by_layers(search.judge, hypotheses, layers, features.n_layers))
        first = outcome.best
        if (
            first is not None
            and not search.enough(first)
            and first.explained >= THRESHOLDS.half_of_a_pair_explained
        ):
            # A second defect may be in any layers, whichever the first is in.
            every = tuple(range(features.n_layers))
            on_top = partial(_on_top, search, first.explanation)
            others = [h for h in hypotheses if h.cause not in {e.cause for e in first.explanation}]
            outcome = _better(outcome, by_layers(on_top, others, every, features.n_layers))
    except OutOfTimeError:
        outcome = replace(outcome, finished=False)
    return replace(outcome, implausible=dict(search.implausible))


def _on_top(search: Search, known: Explanation, further: Explanation) -> Fit | None:
    return search.judge((*known, *further))


def _better(outcome: Outcome, found: Fit | None) -> Outcome:
    """The outcome with this explanation in place of its best, where it leaves clearly less."""
    if found is None or found.explained <= 0:
        return outcome
    if (
        outcome.best is None
        or found.residual_nats < THRESHOLDS.further_cause_share * outcome.best.residual_nats
    ):
        return replace(outcome, best=found, ties=[])
    return outcome


def _checked_on_all(outcome: Outcome, search: Search) -> tuple[Outcome, float | None]:
    """The outcome judged on all rows, and by itself on those that the search did not look at; with
    what it leaves in nats, None where that is not known.
    """
    if outcome.best is None:
        return outcome, None
    try:
        whole = _judged_on_all(search, outcome.best)
        ties = [f for f in (_judged_on_all(search, t) for t in outcome.ties) if f]
    except OutOfTimeError:
        return replace(outcome, finished=False), None
    if whole is None:
        return replace(outcome, ties=ties), None
    return replace(outcome, best=whole, ties=ties), whole.residual_nats


def _judged_on_all(search: Search, explored: Fit) -> Fit | None:
    whole = search.judge(explored.explanation)
    if whole is None:
        return None
    return replace(whole, unseen=search.unseen(explored, THRESHOLDS.exploring_rows).unseen)


def expected_with(
    simulator: Simulator, known_defects: Explanation, suspect: Suspect, temperature: float
) -> Suspect:
    """The suspect held against what a program with these defects says.

    As it is where the model has no such part, or the budget ended before that was computed.
    """
    try:
        prediction = Predictor(simulator, None, temperature).predict(known_defects)
    except OutOfTimeError:
        return suspect
    if prediction is None:
        return suspect
    expected = np.full(len(suspect.observed), np.nan)
    expected[prediction.flat] = prediction.logp
    error = finite_mean_abs((suspect.observed - expected)[prediction.flat])
    return replace(suspect, expected=expected, error_nats=error)
