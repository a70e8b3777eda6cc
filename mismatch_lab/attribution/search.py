"""The search: which defect, or which two or three, make a sound program say what the suspect says.

Every hypothesis is tried alone. If one explains the suspect down to the noise, it is the answer.
If none does, the most promising are combined with the others, and tried in some layers only.
Explanations that account equally well are kept as ties, after those that needed fewer fitted
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from mismatch_lab.attribution.causes import load_cause
from mismatch_lab.attribution.changes import Float64
from mismatch_lab.attribution.fit import Fit, Judge, fit, on_unseen_rows, tuned
from mismatch_lab.attribution.hypotheses import Explanation, Hypothesis
from mismatch_lab.attribution.simulate import OutOfTimeError, Predictor
from mismatch_lab.attribution.thresholds import THRESHOLDS
from mismatch_lab.captures.capture import Int64


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
    step = max(1, -(-len(start) // THRESHOLDS.layers_tried))
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
    if max(best.shared, best.explained) < THRESHOLDS.layer_shared:
        return None
    chosen: tuple[int, ...] = (layer,)
    fixed = best.explanation[-1]
    for further in range(n_layers):
        if further in chosen:
            continue
        layers = tuple(sorted((*chosen, further)))
        wider = judge((hypothesis_in(fixed, hypothesis, layers),))
        if (
            wider is not None
            and wider.residual_nats <= THRESHOLDS.further_layer_share * best.residual_nats
        ):
            chosen, best = layers, wider
    return best


def hypothesis_in(tuned_one: Hypothesis, plain: Hypothesis, layers: tuple[int, ...]) -> Hypothesis:
    """The hypothesis in these layers, with the number that was found for one of them."""
    placed = plain.in_layers(layers)
    value = tuned_one.value
    return placed if value is None or plain.search is None else placed.at(float(value))


@dataclass(frozen=True)
class Outcome:
    """Outcome of a search."""

    best: Fit | None = None
    ties: list[Fit] = field(default_factory=list)
    """Explanations as good as the best one, with as few fitted numbers, of other causes."""
    tried: dict[str, Fit] = field(default_factory=dict)
    """cause -> its best fit alone."""
    finished: bool = True
    """False where the budget ended the search."""
    implausible: dict[str, float] = field(default_factory=dict)
    """cause -> nats that its simulation moves log-probs by, beyond what it can."""


class Search:
    """Searches explanations of one suspect."""

    def __init__(
        self,
        predictor: Predictor,
        expected: Float64,
        observed: Float64,
        row_of: Int64,
        noise_nats: float,
        known_defects: Explanation,
    ) -> None:
        """Args:
        predictor: to predict in.
        expected: [T] log-probs of the program that nothing is wrong with.
        observed: [T] the suspect's log-probs.
        row_of: [T] the row of each token.
        noise_nats: what is left when an explanation is right.
        known_defects: what is known to hold already.
        """
        self.predictor = predictor
        self.expected = expected
        self.observed = observed
        self.row_of = row_of
        self.noise_nats = noise_nats
        self.known_defects = known_defects
        self.implausible: dict[str, float] = {}

    def judge(self, explanation: Explanation) -> Fit | None:
        """Fit of an explanation; None where it does not apply, or is larger than a cause can be."""
        prediction = self.predictor.predict((*self.known_defects, *explanation))
        if prediction is None:
            return None
        args = self.expected, self.observed, self.row_of
        found = fit(explanation, prediction, *args, self.noise_nats)
        if found is not None and len(explanation) == 1:
            cause = explanation[0].cause
            if found.effect_nats > load_cause(cause).largest_nats:
                self.implausible[cause] = found.effect_nats
                return None
        return found

    def unseen(self, found: Fit, first_row: int) -> Fit:
        """The fit with what it comes to on the rows from `first_row` on."""
        prediction = self.predictor.predict((*self.known_defects, *found.explanation))
        if prediction is None:
            return found
        args = self.expected, self.observed, self.row_of
        return replace(found, unseen=on_unseen_rows(found, prediction, *args, first_row))

    def run(self, hypotheses: list[Hypothesis], first_wrong_part: str = "") -> Outcome:
        """Search all of them, and combinations.

        Args:
            hypotheses: all that could be.
            first_wrong_part: what acts there is tried before the rest, should the budget end it.
        """
        alone, finished = self._each_alone(hypotheses, first_wrong_part)
        frontier = alone
        best, ties = self._settled(None, [], frontier)
        if not finished:
            return Outcome(best, ties, _best_alone(alone), finished, dict(self.implausible))
        try:
            hopeful = [f.explanation[0] for f in alone if f.shared >= THRESHOLDS.part_of_it_shared]
            for _ in range(THRESHOLDS.causes_per_suspect - 1):
                if best is None or self.enough(best):
                    break
                before = best
                if before.explained >= THRESHOLDS.mostly_explained:
                    frontier = self._extended([before], hypotheses)
                else:
                    frontier = self._extended(frontier, hopeful)
                best, ties = self._settled(best, ties, frontier)
                if best is before:
                    break
        except OutOfTimeError:
            finished = False
            best, ties = self._settled(best, ties, frontier)
        return Outcome(best, ties, _best_alone(alone), finished, dict(self.implausible))

    def _each_alone(
        self, hypotheses: list[Hypothesis], first_wrong_part: str
    ) -> tuple[list[Fit], bool]:
        """Their fits, in the order of the hypotheses, and whether each was tried."""
        fits: dict[int, Fit] = {}
        late = [not hypothesis.acts_in(first_wrong_part) for hypothesis in hypotheses]
        finished = True
        try:
            for i in sorted(range(len(hypotheses)), key=late.__getitem__):
                found = tuned(self.judge, (), hypotheses[i])
                if found is not None:
                    fits[i] = found
        except OutOfTimeError:
            finished = False
        return [fits[i] for i in sorted(fits)], finished

    def enough(self, found: Fit) -> bool:
        """Whether nothing but noise is left.

        In half precision a defect also changes what rounding does: a small rest is that.
        """
        coarse = (
            self.noise_nats > THRESHOLDS.half_precision_nats
            and found.explained >= THRESHOLDS.half_precision_explained
        )
        quiet = (
            found.residual_nats <= self.noise_nats
            and found.explained >= THRESHOLDS.notable_explained
        )
        return coarse or quiet

    def _extended(self, frontier: list[Fit], hopeful: list[Hypothesis]) -> list[Fit]:
        promising = sorted(frontier, key=_promise)[: THRESHOLDS.search_beam]
        longer = []
        for partial in promising:
            causes = {h.cause for h in partial.explanation}
            for hypothesis in hopeful:
                if hypothesis.cause in causes:
                    continue
                found = tuned(self.judge, partial.explanation, hypothesis)
                if found is not None:
                    longer.append(found)
        return longer

    def _settled(
        self, known: Fit | None, ties: list[Fit], candidates: list[Fit]
    ) -> tuple[Fit | None, list[Fit]]:
        """The best candidate and its ties, if it is worth more than the best so far."""
        candidates = [c for c in candidates if c.explained > 0]
        if not candidates:
            return known, ties
        least = min(c.residual_nats for c in candidates)
        notable = [c for c in candidates if c.explained >= THRESHOLDS.notable_explained]
        limit = (
            max(THRESHOLDS.tie_factor * least, self.noise_nats)
            if notable
            else THRESHOLDS.tie_factor * least
        )
        equal = [c for c in notable or candidates if c.residual_nats <= limit]
        equal.sort(key=lambda c: (c.fitted, c.residual_nats))
        best = equal[0]
        if (
            known is not None
            and len(best.explanation) > len(known.explanation)
            and best.residual_nats > THRESHOLDS.further_cause_share * known.residual_nats
        ):
            return known, ties
        return best, _others(best, [c for c in equal if c.fitted == best.fitted])


def _best_alone(fits: list[Fit]) -> dict[str, Fit]:
    """cause -> its best fit alone."""
    tried: dict[str, Fit] = {}
    for found in fits:
        cause = found.explanation[0].cause
        kept = tried.get(cause)
        if kept is None or found.residual_nats < kept.residual_nats:
            tried[cause] = found
    return tried


def _promise(found: Fit) -> tuple[float, float]:
    """Those that leave little first; among those that leave much, those that share much."""
    return (
        -max(found.explained, found.shared * (abs(found.slope - 1) < THRESHOLDS.same_size_slope)),
        -found.shared,
    )


def _others(best: Fit, equal: list[Fit]) -> list[Fit]:
    """One explanation per set of causes other than the best's."""
    seen = {frozenset(h.cause for h in best.explanation)}
    others = []
    for candidate in equal:
        causes = frozenset(h.cause for h in candidate.explanation)
        if causes not in seen:
            seen.add(causes)
            others.append(candidate)
    return others


def finite_mean_abs(difference: Float64) -> float:
    """mean |difference| over finite entries; NaN without any."""
    finite = difference[np.isfinite(difference)]
    return float(np.mean(np.abs(finite))) if len(finite) else float("nan")
