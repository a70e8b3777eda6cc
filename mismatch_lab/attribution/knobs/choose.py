"""Which knob to turn next: the cheapest that separates the causes in question, or confirms one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mismatch_lab.attribution.hypotheses import Suspect
from mismatch_lab.attribution.knobs import KNOBS
from mismatch_lab.attribution.knobs.base import Knob, Turn
from mismatch_lab.engines.base import BLACK_BOXES
from mismatch_lab.schema import RunSpec


@dataclass(frozen=True)
class Choice:
    """A knob that can be turned in this run."""

    knob: Knob
    turn: Turn


def choices(run: RunSpec, suspect: Suspect) -> list[Choice]:
    """Every knob that can be turned in a run for one suspect."""
    found = []
    for knob in KNOBS:
        turn = knob.turn(run) if suspect in knob.suspects else None
        if turn is not None and _is_ours(run, turn):
            found.append(Choice(knob, turn))
    return found


def _is_ours(run: RunSpec, turn: Turn) -> bool:
    """Whether the side can be set so: a server that runs is asked otherwise, never changed."""
    spec = turn.trial.spec
    return spec.engine not in BLACK_BOXES or spec == run.infer


def next_choice(open_choices: list[Choice], causes: Collection[str]) -> Choice | None:
    """The choice to try next; None where none says anything about the causes.

    Several causes want a knob of which they predict different things; one wants a knob that takes
    it away. Among those: the one most likely to matter, then the cheapest, then the one that
    separates most.
    """
    useful = [c for c in open_choices if _parts(c.knob, causes)]
    if not useful:
        return None
    return min(useful, key=lambda c: (c.turn.likely, c.turn.slower, -_parts(c.knob, causes)))


def _parts(knob: Knob, causes: Collection[str]) -> int:
    """How many pairs of causes it tells apart; of one cause, whether it confirms it."""
    cured = len(knob.cures & set(causes))
    if len(causes) == 1:
        return cured
    return cured * len(knob.keeps & set(causes))
