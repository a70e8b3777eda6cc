"""What the scorecard stores: cases with their truth, results, and the card."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from mismatch_lab.schema import Cause, Number, Provenance, Status, Strict

Kind = Literal["single", "double", "control"]
SEVERITIES = ("plain", "medium", "slight")


class Truth(Strict):
    """What is planted, as the judge must know it and the tool must not."""

    fault: str
    severity: str
    causes: tuple[str, ...]
    """Any of these names is right."""
    families: tuple[str, ...]
    sides: tuple[str, ...]
    """Any of these is right: a weight that did not arrive is of the engine, or of the sync."""
    location: str | None
    """Module where it acts; None where a fault has no place in the model."""


class Case(Strict):
    """One diagnosis of the card. The id is stable and is the name of its file."""

    id: str
    kind: Kind
    model: str
    dtype: str
    engine: str
    truths: tuple[Truth, ...] = ()
    control: str | None = None
    """Name of the healthy control; such a case has no truth."""


class Judgement(Strict):
    """A case's truth against what was named; None where a question does not apply."""

    detected: bool | None = None
    """More than numerics was said."""
    family: bool | None = None
    side: bool | None = None
    cause: bool | None = None
    tied: bool = False
    """The first cause shares its confidence with others."""
    location: bool | None = None
    """The exact module or the same layer."""
    both: bool | None = None
    """Of a double fault: both causes are named."""
    extra: int = 0
    """Causes named that were not planted, ties with a right one aside."""
    false_alarm: bool | None = None
    named: str = "nothing"
    """The cause counted as the answer."""
    confidence: Number = math.nan


class BlackBox(Strict):
    """What is said of a run's record: of the captures alone, or with the checkpoint."""

    judgement: Judgement | None
    status: Status | None = None
    headline: str = ""
    causes: tuple[Cause, ...] = ()
    problem: str = ""
    """Why there is no judgement."""


class CaseResult(Strict):
    """OUT/cases/ID.json."""

    schema_version: Literal[1] = 1
    case: Case
    judgement: Judgement | None
    """None where the case did not finish, or the fault cannot be planted there."""
    status: Status | None = None
    headline: str = ""
    reasons: tuple[str, ...] = ()
    causes: tuple[Cause, ...] = ()
    black_box: BlackBox | None = None
    """By `compare`, from the captures of both sides; judged apart. None where the case did not
    finish, or ran before there was such a thing."""
    recorded: BlackBox | None = None
    """By `diagnose CHECKPOINT --captures`, from the same and the checkpoint; likewise."""
    problem: str = ""
    """Why there is no judgement."""
    not_applicable: bool = False
    effect_nats: Number = math.nan
    """Mean |delta| of what RL sees: how loud the fault is."""
    floor_ratio: Number = math.nan
    """The largest of the three distances over the noise floor."""
    experiments: int | None = None
    """Experiments that attribution ran; None where the verdict does not say."""
    diagnosis_s: Number = math.nan
    """A diagnosis from nothing: stages that came from the cache count as when they were run."""
    wall_s: Number = math.nan
    """What it took here, with the cache."""
    code: str = ""
    """Digest of this package's sources when the case ran."""


class Share(Strict):
    """A share of cases with its Wilson 95 % interval; NaN where there are none."""

    right: int
    n: int
    value: Number
    ci95: tuple[Number, Number]


class Row(Strict):
    """A line of an accuracy table: question -> share."""

    name: str
    cases: int
    shares: dict[str, Share]


class Bin(Strict):
    """Calibration: answers with a confidence in [low, high)."""

    low: float
    high: float
    confidence: Number
    """Their mean."""
    right: Share


class Goal(Strict):
    """An aim of the card and whether it is met; None where nothing was measured."""

    text: str
    met: bool | None
    measured: str


class BlackBoxCard(Strict):
    """Accuracy of what is said of records, of the cases whose results have it."""

    by_severity: list[Row]
    by_family: list[Row]
    doubles: Row
    controls: Row
    ties: Share
    extras: Share
    misses: list[CaseResult]
    unanswered: list[CaseResult]
    """Among no cases of the rows above."""


class Scorecard(Strict):
    """OUT/scorecard.json: all that the page shows."""

    schema_version: Literal[1] = 1
    provenance: Provenance
    engine: str
    subset: str
    planned: int
    """Cases asked for; fewer results mean that the card is not finished."""
    codes: list[str]
    """Digests of the sources that the results were made with."""
    goals: list[Goal]
    by_severity: list[Row]
    by_family: list[Row]
    by_model: list[Row]
    doubles: Row
    controls: Row
    ties: Share
    """Right answers to single faults that share their confidence with wrong ones."""
    extras: Share
    """Answers to faults that also name something that was not planted."""
    black_box: BlackBoxCard
    """By `compare`. Counts in nothing else of the card."""
    recorded: BlackBoxCard
    """By `diagnose CHECKPOINT --captures`; likewise."""
    confusion: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Planted cause -> named cause -> single faults and controls."""
    calibration: list[Bin]
    median_diagnosis_s: Number
    median_experiments: Number
    misses: list[CaseResult]
    not_run: list[CaseResult]
