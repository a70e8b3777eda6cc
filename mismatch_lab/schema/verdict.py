"""What findings come to: a status, and causes with their evidence."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mismatch_lab.schema.base import Number, Status, Strict


class Observation(Strict):
    """One piece of evidence."""

    observation: str
    value: Number
    expected: str


class Confirmation(Strict):
    """An experiment that made the effect go away, or come back."""

    experiment: str
    before: Number
    after: Number
    by: Literal["side", "unseen rows", "record"] = "side"
    """What it was done to: the side itself, changed in one thing; rows of the run that nothing had
    been fitted on; or what was recorded, the tokens in question left out."""


class Remedy(Strict):
    """What to do about a cause."""

    id: str | None
    """Of the `--fix` that does it in the reference trainer; None where there is none."""
    how: str


class Cause(Strict):
    """A named cause."""

    id: str
    family: str
    side: Literal["infer", "train", "sync", "both", "neither", "undecided"]
    """`undecided`: engine and transformers disagree, and nothing independent of both decides."""
    confidence: float = Field(ge=0, le=1)
    location: str | None
    evidence: list[Observation]
    confirmed_by: list[Confirmation] = []
    remedy: Remedy | None = None
    why: str = ""
    """In a sentence: what singled this cause out."""
    decides: str = ""
    """Where causes are tied: the experiment that would decide between them."""


class RuledOut(Strict):
    """A cause that was considered and does not fit."""

    id: str
    because: str


class ExperimentRecord(Strict):
    """An experiment that was run on the way to the verdict."""

    name: str
    side: Literal["infer", "train", "sync", "both", "neither"]
    cost_s: Number
    result: str


class ByHand(Strict):
    """An experiment on a server that its user has to make."""

    server_with: str
    """Flags to start it with."""
    command: str
    """To run then."""
    if_gone: str
    """What it would mean that the difference is gone, and that it stays."""
    if_it_stays: str


class Verdict(Strict):
    """The answer."""

    status: Status
    headline: str
    """One sentence with its numbers."""
    reasons: list[str]
    """How the status was reached, step by step."""
    next_command: str
    causes: list[Cause] = []
    ruled_out: list[RuledOut] = []
    experiments: list[ExperimentRecord] = []
    by_hand: list[ByHand] = []
    """What is left to try where the engine is a server, which is not changed."""
