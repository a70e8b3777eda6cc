"""All candidates of a run in one list, the surest first, and what is ruled out beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from mismatch_lab.attribution.candidates import NOTHING, Found
from mismatch_lab.attribution.causes import load_cause
from mismatch_lab.attribution.explain import Simulated
from mismatch_lab.attribution.fit import Fit
from mismatch_lab.attribution.thresholds import THRESHOLDS
from mismatch_lab.schema import Cause, RuledOut


@dataclass(frozen=True)
class SuspectResult:
    """What came of one suspect."""

    seen: Found
    """Read off its captures, and tried."""
    found: Found = NOTHING
    """Of what was simulated, after experiments."""
    simulated: Simulated | None = None
    """The simulation; None where none was due."""

    @property
    def candidates(self) -> tuple[Cause, ...]:
        """All of them, formats included."""
        return (*self.seen.candidates, *self.found.formats, *self.found.candidates)


@dataclass(frozen=True)
class Ranked:
    """The outcome."""

    causes: list[Cause]
    """The surest first."""
    ruled_out: list[RuledOut]
    notes: list[str]


def rank(
    results: Sequence[SuspectResult], beside: Sequence[Cause], asked: Collection[str]
) -> Ranked:
    """Everything that was found, ordered by confidence.

    Args:
        results: of every suspect in turn.
        beside: candidates of no suspect.
        asked: causes that the request itself brings about: nothing rules them out.
    """
    causes, struck, notes = list[Cause](), list[RuledOut](), list[str]()
    for one in results:
        causes += one.seen.candidates
        for candidate in one.found.formats:  # once, however often the side is simulated
            if (candidate.id, candidate.side) not in {(c.id, c.side) for c in causes}:
                causes.append(candidate)
        causes += one.found.candidates
        struck += [*one.seen.ruled_out, *one.found.ruled_out]
        notes += [*one.seen.notes, *one.found.notes]
        if one.simulated is not None:
            named = {cause.id for cause in causes}
            struck += ruled_out(one.simulated, named)
            left = not_ruled_out(one.simulated, named)
            notes += [] if left is None else [left]
            if not one.simulated.outcome.finished:
                notes.append("The budget for experiments ended the search early.")
    causes += beside
    # Nothing is ruled out that is named, by whatever suspect, or that was asked for.
    kept = {cause.id for cause in causes} | set(asked)
    surest = sorted(causes, key=lambda cause: -cause.confidence)
    return Ranked(surest, [one for one in struck if one.id not in kept], notes)


def ruled_out(simulated: Simulated, named: Iterable[str]) -> list[RuledOut]:
    """Hypotheses that were tried and explain little, those that came nearest first; and those whose
    cause cannot be as large as its simulation was.
    """
    kept = set(named)
    too_large = [
        RuledOut(
            id=cause,
            because=f"simulated, moves log-probs by {nats:.2g} nats: this cause moves them by "
            f"{load_cause(cause).largest_nats:.2g} at most",
        )
        for cause, nats in simulated.outcome.implausible.items()
        if cause not in kept and cause not in simulated.outcome.tried
    ]
    return (
        too_large
        + [
            RuledOut(
                id=cause,
                because=f"simulated ({found.explanation[0].label}): removes "
                f"{max(found.explained, 0.0):.0%} of the error",
            )
            for cause, found in _by_share(simulated)
            if cause not in kept and found.explained <= _ruled_out_up_to(simulated)
        ][: THRESHOLDS.ruled_out_shown]
    )


def not_ruled_out(simulated: Simulated, named: Iterable[str]) -> str | None:
    """What explains too much by itself to be ruled out and is not named, in a sentence."""
    kept = set(named)
    open_ones = [
        f"{cause} ({found.explained:.0%})"
        for cause, found in _by_share(simulated)
        if cause not in kept and found.explained > _ruled_out_up_to(simulated)
    ]
    if not open_ones:
        return None
    return (
        f"Not ruled out for the {simulated.suspect.name}, by the share of its error that each "
        f"removes alone: {', '.join(open_ones)}."
    )


def _by_share(simulated: Simulated) -> list[tuple[str, Fit]]:
    return sorted(simulated.outcome.tried.items(), key=lambda item: -item[1].explained)


def _ruled_out_up_to(simulated: Simulated) -> float:
    """Share of the error: where nothing was found, that of an explanation that is named; else half
    of what is explained.
    """
    best = simulated.outcome.best
    return (
        THRESHOLDS.named_explained
        if best is None
        else max(0.0, THRESHOLDS.ruled_out_share * best.explained)
    )
