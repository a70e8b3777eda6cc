"""What a monitor alarms about: the measures of a step held against limits and against the run.

Limits say what no healthy run of this precision does, whatever its first steps were like; changes
are told from the run's own first steps (`change.py`). One table, `KINDS`, has a row for each alarm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from mismatch_lab.errors import InputError, choices
from mismatch_lab.live.change import FALSE_ALARM_PER_1000_STEPS, LIMIT, Cusum, Rise
from mismatch_lab.schema import Limits

LIMIT_NATS: Mapping[str, float] = {
    "float32": 0.005,
    "float16": 0.02,
    "bfloat16": 0.1,
    "fp8": 0.2,
}
"""Mean |delta| that numerics of a dtype do not reach in published healthy runs. bfloat16: 0.010 to
0.018 for Qwen3 and GPT-OSS, 0.076 at the worst (Qwen3-32B), and slime's CI fails at 0.1. float16: a
tenth of bfloat16's (0.0057 measured), three times over. float32: 0.0024 where products are TF32,
twice over. fp8 (weights or cache of the sampler): 0.178. A model whose precision does more to it
than that is given a limit of its own (`limit_nats`), from `mismatch-lab diagnose`."""
LIMIT_ESS = 0.5
"""Effective sample fraction below which verl's documentation calls a run unhealthy."""
LIMIT_DROPPED = 0.01
"""Share of sampled tokens without a finite log-prob: one in a thousand happens (NaN of an engine),
one in a hundred is a defect of whoever writes them down."""
LASTING_STEPS = 3
"""Steps in a row that must lie beyond a limit: a single odd batch is none."""
LOST_SHARE = 0.05
"""Added to the share of tokens that do not count (1 - ess) before its logarithm is taken: a loss of
less than a few per cent is no change worth an alarm."""
SAME_POLICY_NATS = Limits().match_abs_delta_nats
"""Below this mean |delta| two sides are the same policy."""
QUIET_STEPS = 100
"""An alarm is said again only after so many steps without it: what lasts is said once."""
SERIES = ("mismatch", "ess")
FALSE_ALARM_OF_A_RUN = FALSE_ALARM_PER_1000_STEPS * len(SERIES)
"""Largest probability that any alarm of a change goes off within 1,000 healthy steps: 2 %. Alarms
of limits are apart: they cannot go off unless the measures lie beyond a published limit."""

KINDS: Mapping[str, str] = {
    "above-limit": "mean |delta| is more than numerics of this dtype do",
    "step-change": "mean |delta| has jumped against the run's first steps",
    "drift": "mean |delta| has grown slowly against the run's first steps",
    "growth-at-zero-learning-rate": "mean |delta| has grown although no weight was changed: the "
    "engine, its cache or its weights, not the policy",
    "staleness": "mean |delta| has grown with the age of the sampling weights, and not among "
    "sequences that are as fresh as at the start",
    "ess-low": "few tokens count: the effective sample fraction lies below what any run needs",
    "ess-fall": "the effective sample fraction has fallen against the run's first steps",
    "not-finite": "sampled tokens have no finite log-prob",
    "copied": "both sides are equal to the last bit, which is no measurement unless the engine was "
    "made bitwise equal to the trainer: has one side's array been copied?",
}
"""What each alarm says."""


@dataclass(frozen=True)
class Alarm:
    """Something to look at."""

    kind: str
    step: int
    since: int
    """First step that belongs to it."""
    value: float
    against: float
    """The limit, or the median of the run's first steps."""
    largest_lag: int | None = None
    """Updates that the oldest sampling weights of the step were behind; None is not known."""

    def text(self) -> str:
        """One sentence with the numbers."""
        if self.kind == "copied":
            return f"{KINDS[self.kind]} (since step {self.since})"
        unit = "" if self.kind.startswith(("ess", "not")) else " nats"
        numbers = f"{self.value:.3g}{unit} against {self.against:.3g}{unit}"
        lag = self.largest_lag
        old = f"; weights that sampled are up to {lag} updates old" if lag else ""
        return f"{KINDS[self.kind]} ({numbers}, since step {self.since}{old})"


@dataclass(frozen=True)
class Seen:
    """The numbers of a step that are watched; NaN is not known."""

    step: int
    abs_delta_mean: float
    ess: float
    dropped_share: float
    abs_delta_max: float
    learning_rate: float | None = None
    largest_lag: int | None = None
    """Of its sequences."""
    fresh_abs_delta_mean: float = math.nan
    """Of the sequences that are as fresh as those of the run's first steps."""


def limit_of(dtype: str) -> float:
    """Mean |delta| in nats that numerics of a dtype do not reach.

    Raises:
        InputError: no limit is known for it.
    """
    name = "fp8" if "fp8" in dtype or "float8" in dtype else dtype.removeprefix("torch.")
    if name not in LIMIT_NATS:
        raise InputError(f"No limit is known for dtype {dtype!r}.", choices(name, LIMIT_NATS))
    return LIMIT_NATS[name]


class Watch:
    """Takes the numbers of each step and says what is wrong."""

    def __init__(self, limit_nats: float) -> None:
        self.limit_nats = limit_nats
        self.freshest_lag: int | None = None
        """Largest lag of the run's first steps: what is as fresh is compared like for like."""
        self._mismatch, self._fresh, self._ess = Cusum(), Cusum(), Cusum()
        self._beyond: dict[str, list[int]] = {}
        """Steps in a row, up to now, that lie beyond each limit."""
        self._said: dict[str, int] = {}
        self._fresh_rose = -1
        """Step of the newest alarm of the sequences that are as fresh as at the start."""
        self._last_learning = -1
        """Step of the newest update that may have changed weights."""

    def update(self, seen: Seen) -> list[Alarm]:
        """Alarms of a step, most often none."""
        if seen.learning_rate is None or seen.learning_rate > 0:
            self._last_learning = seen.step
        if not self._mismatch.has_baseline and seen.largest_lag is not None:
            self.freshest_lag = max(seen.largest_lag, self.freshest_lag or 0)
        found = [*self._limits(seen), *self._changes(seen)]
        news = [alarm for alarm in found if self._is_news(alarm)]
        return [replace(alarm, largest_lag=seen.largest_lag) for alarm in news]

    def _limits(self, seen: Seen) -> list[Alarm]:
        beyond = {
            "above-limit": (seen.abs_delta_mean, self.limit_nats, 1),
            "ess-low": (seen.ess, LIMIT_ESS, -1),
            "not-finite": (seen.dropped_share, LIMIT_DROPPED, 1),
            "copied": (seen.abs_delta_max, 0.0, 0),
        }
        if self.limit_nats == 0:  # equal to the last bit is what is asked for
            del beyond["copied"]
        alarms = []
        for kind, (value, limit, sign) in beyond.items():
            over = value == limit if sign == 0 else sign * (value - limit) > 0
            steps = [*self._beyond.get(kind, []), seen.step] if over else []
            self._beyond[kind] = steps[:1] + steps[1:][-LASTING_STEPS:]
            if len(steps) >= LASTING_STEPS:
                alarms.append(Alarm(kind, seen.step, steps[0], value, limit))
        return alarms

    def _changes(self, seen: Seen) -> list[Alarm]:
        """Rises of the logarithms, of which equal factors are equal steps."""
        alarms = []
        fresh = seen.abs_delta_mean if seen.largest_lag is None else seen.fresh_abs_delta_mean
        if self._fresh.update(seen.step, _log_nats(fresh)) is not None:
            self._fresh_rose = seen.step
        rise = self._mismatch.update(seen.step, _log_nats(seen.abs_delta_mean))
        if rise is not None:
            kind = self._kind(rise, seen)
            alarms.append(_of_rise(kind, rise, seen.step, _nats))
        rise = self._ess.update(seen.step, math.log(1 - seen.ess + LOST_SHARE))
        if rise is not None:
            alarms.append(_of_rise("ess-fall", rise, seen.step, _ess))
        return alarms

    def _kind(self, rise: Rise, seen: Seen) -> str:
        if self._last_learning < rise.since:
            return "growth-at-zero-learning-rate"
        aged = seen.largest_lag is not None and seen.largest_lag > (self.freshest_lag or 0)
        fresh_too = self._fresh_rose >= rise.since or self._fresh.sum >= LIMIT / 2
        if aged and not fresh_too:
            return "staleness"
        return "step-change" if rise.shape == "step" else "drift"

    def _is_news(self, alarm: Alarm) -> bool:
        before = self._said.get(alarm.kind)
        self._said[alarm.kind] = alarm.step
        return before is None or alarm.step - before > QUIET_STEPS


def _of_rise(kind: str, rise: Rise, step: int, back: Callable[[float], float]) -> Alarm:
    return Alarm(kind, step, rise.since, back(rise.now), back(rise.usual))


def _log_nats(abs_delta_mean: float) -> float:
    """Differences below what makes two policies one are no growth when they grow."""
    return math.log(abs_delta_mean + SAME_POLICY_NATS)


def _nats(logarithm: float) -> float:
    return math.exp(logarithm) - SAME_POLICY_NATS


def _ess(logarithm: float) -> float:
    return 1 + LOST_SHARE - math.exp(logarithm)
