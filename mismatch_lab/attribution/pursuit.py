"""The search: which defect, or which two or three, make a sound program say what the suspect says.

Every hypothesis is tried alone. If one explains the suspect down to the noise, it is the answer.
If none does, the most promising are combined with the others. Explanations that account equally
well are kept as ties, after those that needed fewer fitted numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from mismatch_lab.attribution.causes import load_cause
from mismatch_lab.attribution.fit import Fit, fit, on_unseen_rows
from mismatch_lab.attribution.hypotheses import Explanation, Hypothesis
from mismatch_lab.attribution.lab import OutOfTimeError
from mismatch_lab.attribution.simulate import World
from mismatch_lab.attribution.token_changes import Float64
from mismatch_lab.attribution.tune import tuned
from mismatch_lab.captures.capture import Int64

MOST_CAUSES = 3
"""Defects looked for on one suspect."""

BEAM = 4
"""Unfinished explanations that are carried on."""

HOPEFUL = 0.02
"""A hypothesis that shares less than this with the suspect's error alone is no part of it."""

WORTHWHILE = 0.6
"""A further cause must leave at most this share of what the causes before it leave."""

AS_GOOD = 1.15
"""Residuals within this factor of the best are ties, as far as the data can say."""

COARSE_NATS = 1e-4
"""Noise above this is that of half precision."""

NEARLY = 0.95
"""Share of the error that an explanation in half precision need remove."""

NOTABLE = 0.5
"""Share of the error that an explanation must remove to pass for one because little is left: on
some rows the whole error may be as small as the noise."""

MOSTLY = 0.8
"""An explanation of this share is kept; what is left is looked for among all hypotheses again."""


@dataclass
class Pursuit:
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
        world: World,
        sound: Float64,
        observed: Float64,
        row_of: Int64,
        noise_nats: float,
        given: Explanation,
    ) -> None:
        """Args:
        world: to predict in.
        sound: [T] log-probs of the program that nothing is wrong with.
        observed: [T] the suspect's log-probs.
        row_of: [T] the row of each token.
        noise_nats: what is left when an explanation is right.
        given: what is known to hold already.
        """
        self.world = world
        self.sound = sound
        self.observed = observed
        self.row_of = row_of
        self.noise_nats = noise_nats
        self.given = given
        self.implausible: dict[str, float] = {}

    def judge(self, explanation: Explanation) -> Fit | None:
        """Fit of an explanation; None where it does not apply, or is larger than a cause can be."""
        prediction = self.world.predict((*self.given, *explanation))
        if prediction is None:
            return None
        args = self.sound, self.observed, self.row_of
        found = fit(explanation, prediction, *args, self.noise_nats)
        if found is not None and len(explanation) == 1:
            cause = explanation[0].cause
            if found.effect_nats > load_cause(cause).largest_nats:
                self.implausible[cause] = found.effect_nats
                return None
        return found

    def unseen(self, found: Fit, first_row: int) -> Fit:
        """The fit with what it comes to on the rows from `first_row` on."""
        prediction = self.world.predict((*self.given, *found.explanation))
        if prediction is None:
            return found
        args = self.sound, self.observed, self.row_of
        return replace(found, unseen=on_unseen_rows(found, prediction, *args, first_row))

    def run(self, hypotheses: list[Hypothesis]) -> Pursuit:
        """Search all of them, and combinations."""
        pursuit = Pursuit(implausible=self.implausible)
        frontier: list[Fit] = []
        try:
            for hypothesis in hypotheses:
                found = tuned(self.judge, (), hypothesis)
                if found is None:
                    continue
                frontier.append(found)
                kept = pursuit.tried.get(hypothesis.cause)
                if kept is None or found.residual_nats < kept.residual_nats:
                    pursuit.tried[hypothesis.cause] = found
            self._settle(pursuit, frontier)
            hopeful = [f.explanation[0] for f in frontier if f.shared >= HOPEFUL]
            for _ in range(MOST_CAUSES - 1):
                if pursuit.best is None or self.enough(pursuit.best):
                    break
                before = pursuit.best
                if before.explained >= MOSTLY:
                    frontier = self._extended([before], hypotheses)
                else:
                    frontier = self._extended(frontier, hopeful)
                self._settle(pursuit, frontier)
                if pursuit.best is before:
                    break
        except OutOfTimeError:
            pursuit.finished = False
            self._settle(pursuit, frontier)
        return pursuit

    def enough(self, found: Fit) -> bool:
        """Whether nothing but noise is left.

        In half precision a defect also changes what rounding does: a small rest is that.
        """
        coarse = self.noise_nats > COARSE_NATS and found.explained >= NEARLY
        quiet = found.residual_nats <= self.noise_nats and found.explained >= NOTABLE
        return coarse or quiet

    def _extended(self, frontier: list[Fit], hopeful: list[Hypothesis]) -> list[Fit]:
        promising = sorted(frontier, key=_promise)[:BEAM]
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

    def _settle(self, pursuit: Pursuit, candidates: list[Fit]) -> None:
        """Take the best candidate if it is worth more than the best so far."""
        candidates = [c for c in candidates if c.explained > 0]
        if not candidates:
            return
        least = min(c.residual_nats for c in candidates)
        notable = [c for c in candidates if c.explained >= NOTABLE]
        limit = max(AS_GOOD * least, self.noise_nats) if notable else AS_GOOD * least
        equal = [c for c in notable or candidates if c.residual_nats <= limit]
        equal.sort(key=lambda c: (c.fitted, c.residual_nats))
        best = equal[0]
        known = pursuit.best
        if (
            known is not None
            and len(best.explanation) > len(known.explanation)
            and best.residual_nats > WORTHWHILE * known.residual_nats
        ):
            return
        pursuit.best = best
        pursuit.ties = _others(best, [c for c in equal if c.fitted == best.fitted])


def _promise(found: Fit) -> tuple[float, float]:
    """Those that leave little first; among those that leave much, those that share much."""
    return (-max(found.explained, found.shared * (abs(found.slope - 1) < 0.5)), -found.shared)


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
