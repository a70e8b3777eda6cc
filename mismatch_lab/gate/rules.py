"""Rules of the gate: a TOML file with one table a rule, each with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from mismatch_lab.attribution.causes import CAUSES
from mismatch_lab.findings.edges import EDGES
from mismatch_lab.measures import EDGE_MEASURES
from mismatch_lab.probes.suites import read_toml
from mismatch_lab.resources import probes_dir
from mismatch_lab.schema import Limits, RoutingFindings, Strict, TypicalRatios

ROUTING, FLOOR = "routing", "noise_floor"
"""What a limit may be on beside edges: agreement of routers, and errors over the noise floor."""

FULL_VOCABULARY = ("kl_infer_train_exact", "top1_agreement")
BASELINE_MEASURES = ("abs_delta_mean", "abs_delta_p99", "kl_infer_train_k3")
"""What can be held against a baseline. p99 is the share of tokens beyond the baseline's: a quantile
of few rows has no interval that holds, a share has."""


class Rule(Strict):
    """What every rule has."""

    name: str = Field(min_length=1)
    reason: str = Field(min_length=1)
    """Why this limit and no other."""
    probes: tuple[str, ...] = ()
    """Of these probes alone; none named is all."""


class StatusRule(Rule):
    """Which verdicts pass."""

    allowed: tuple[Literal["match", "numerics", "mismatch"], ...] = Field(min_length=1)


class CausesRule(Rule):
    """Causes that may not be named."""

    forbidden: tuple[str, ...] = Field(min_length=1)
    confidence: float = Field(default=0.5, ge=0, le=1)
    """From this confidence on."""


class LimitRule(Rule):
    """A measure of an edge, of routing or of the noise floor must lie within limits."""

    edge: str
    measure: str
    below: float | None = None
    above: float | None = None
    unless_below_nats: float | None = Field(default=None, gt=0)
    """Passes, too, where the edge's mean |delta| lies below this (of routing and noise floor:
    decode_train's)."""
    missing: Literal["error", "skip"] = "error"
    """What a measure that a run does not have is, such as routing in a dense model."""

    @property
    def nats_edge(self) -> str:
        """The edge that `unless_below_nats` speaks of."""
        return self.edge if self.edge in EDGES else "decode_train"

    @model_validator(mode="after")
    def _known(self) -> LimitRule:
        known = measures_of(self.edge)
        if self.measure not in known:
            raise ValueError(f"{self.edge} has no measure {self.measure!r}; it has {known}")
        if self.below is None and self.above is None:
            raise ValueError("give below, above or both")
        if self.below is not None and self.above is not None and self.above >= self.below:
            raise ValueError(f"nothing lies above {self.above:g} and below {self.below:g}")
        return self


class SequencesRule(Rule):
    """How many single sequences may be far off: their own mean |delta|."""

    edge: str
    below_nats: float | None = Field(default=None, gt=0)
    below_floors: float | None = Field(default=None, gt=0)
    """Times the mean |delta| that precision makes; with both limits, the larger counts."""
    share: float | None = Field(default=None, gt=0, lt=1)
    """At most this share of sequences may be beyond it, judged by an interval; without it none
    that was recorded may."""

    @model_validator(mode="after")
    def _known(self) -> SequencesRule:
        if self.edge not in EDGES:
            raise ValueError(f"unknown edge {self.edge!r}; there are {', '.join(EDGES)}")
        if self.below_nats is None and self.below_floors is None:
            raise ValueError("give below_nats, below_floors or both")
        return self


class BaselineRule(Rule):
    """A measure may not have grown since the baseline by more than a share of it."""

    edge: str
    measure: str
    increase: float = Field(gt=0)
    """1 is twice the baseline."""
    unless_below_nats: float | None = Field(default=None, gt=0)
    """Passes, too, where the edge's mean |delta| lies below this."""
    without_baseline: Literal["error", "skip"] = "error"
    """What it is where no `--baseline` was given; one that cannot be read is always an error."""

    @model_validator(mode="after")
    def _known(self) -> BaselineRule:
        if self.edge not in EDGES:
            raise ValueError(f"unknown edge {self.edge!r}; there are {', '.join(EDGES)}")
        if self.measure not in BASELINE_MEASURES:
            raise ValueError(f"of a baseline there are {', '.join(BASELINE_MEASURES)}")
        return self


AnyRule = StatusRule | CausesRule | LimitRule | SequencesRule | BaselineRule


class Rules(Strict):
    """A rules file."""

    schema_version: Literal[1] = 1
    min_tokens: int = Field(default=Limits().min_tokens, ge=1)
    """Fewer sampled tokens decide nothing."""
    min_rows: int = Field(default=Limits().min_rows, ge=2)
    false_alarm_rate: float = Field(default=0.01, gt=0, lt=0.5)
    """Of all comparisons with a baseline together: the probability that a run at its limit fails,
    and that one at its limit passes."""
    allow_identical: bool = False
    """Sides that are the same to the last bit pass: only where both run the same kernels. Else that
    is a record that was copied."""
    status: tuple[StatusRule, ...] = ()
    causes: tuple[CausesRule, ...] = ()
    limit: tuple[LimitRule, ...] = ()
    sequences: tuple[SequencesRule, ...] = ()
    baseline: tuple[BaselineRule, ...] = ()

    def all(self) -> list[AnyRule]:
        """Every rule, in the order in which they are judged."""
        return [*self.status, *self.causes, *self.limit, *self.sequences, *self.baseline]

    def of(self, probe: str) -> list[AnyRule]:
        """Those for a probe."""
        return [rule for rule in self.all() if not rule.probes or probe in rule.probes]

    @model_validator(mode="after")
    def _consistent(self) -> Rules:
        if not self.all():
            raise ValueError("there is no rule")
        names = [rule.name for rule in self.all()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two rules are called {twice[0]!r}")
        _check_contradictions(self.all())
        _check_causes(self.causes)
        return self


def measures_of(edge: str) -> list[str]:
    """What can be limited on an edge.

    Raises:
        ValueError: there is no such edge.
    """
    if edge == ROUTING:
        return [n for n in RoutingFindings.model_fields if n not in ("edge", "per_layer")]
    if edge == FLOOR:
        names = list(TypicalRatios.model_fields)
        return [f"{name}_ratio" for name in names] + [f"typical.{name}" for name in names]
    if edge not in EDGES:
        raise ValueError(f"unknown edge {edge!r}; there are {', '.join([*EDGES, ROUTING, FLOOR])}")
    return [*EDGE_MEASURES, *FULL_VOCABULARY]


def default_rules() -> Rules:
    """The set that a team can use unread."""
    return load_rules(probes_dir() / "gate" / "default.toml")


def load_rules(path: Path) -> Rules:
    """Rules from a TOML file.

    Raises:
        InputError: no such file, not TOML, an unknown field or name, or rules that contradict.
    """
    return read_toml(path, Rules, "Rules file")


def _check_contradictions(rules: Sequence[AnyRule]) -> None:
    """Two rules on one thing: nothing satisfies both, or one of them says nothing."""
    seen: list[tuple[tuple[Any, ...], AnyRule]] = []
    for rule in rules:
        for target in _targets(rule):
            for other_target, other in seen:
                shared = not rule.probes or not other.probes or {*rule.probes} & {*other.probes}
                if target == other_target and shared:
                    raise ValueError(
                        f"{other.name!r} and {rule.name!r} limit the same thing "
                        f"({' '.join(map(str, target))}): they contradict, or one says nothing"
                    )
            seen.append((target, rule))
    _check_ranges([rule for rule in rules if isinstance(rule, LimitRule)])


def _targets(rule: AnyRule) -> list[tuple[Any, ...]]:
    if isinstance(rule, StatusRule):
        return [("status",)]
    if isinstance(rule, CausesRule):
        return [("cause", cause) for cause in rule.forbidden]
    if isinstance(rule, LimitRule):
        given = {"below": rule.below, "above": rule.above}
        return [
            ("limit", rule.edge, rule.measure, d) for d, value in given.items() if value is not None
        ]
    if isinstance(rule, SequencesRule):
        return [("sequences", rule.edge, "none" if rule.share is None else "share")]
    return [("baseline", rule.edge, rule.measure)]


def _check_ranges(rules: Sequence[LimitRule]) -> None:
    for upper in rules:
        for lower in rules:
            same = (upper.edge, upper.measure) == (lower.edge, lower.measure)
            apart = upper.probes and lower.probes and not {*upper.probes} & {*lower.probes}
            if not same or apart or upper.below is None or lower.above is None:
                continue
            if lower.above >= upper.below:
                raise ValueError(
                    f"{lower.name!r} and {upper.name!r} contradict: nothing lies above "
                    f"{lower.above:g} and below {upper.below:g}"
                )


def _check_causes(rules: Sequence[CausesRule]) -> None:
    for rule in rules:
        unknown = [cause for cause in rule.forbidden if cause not in CAUSES]
        if unknown:
            raise ValueError(f"{rule.name!r}: unknown cause {unknown[0]!r}; see `list causes`")
