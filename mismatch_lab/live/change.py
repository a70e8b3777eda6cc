"""Whether a series has risen above its own first steps: a one-sided CUSUM with a stated error rate.

A value x is compared with the median and the robust scale of the run's first `BASELINE_STEPS`
values: z = (x - median) / max(1.4826 MAD, LEAST_SCALE), cut off at `LARGEST_Z` so that single
outliers, however large, need company. S = max(0, S + z - SLACK); S >= LIMIT is an alarm (Page 1954,
Biometrika 41:100). Both numbers are estimated from few values, which makes a textbook CUSUM alarm
far too often; the slack and the limit here were therefore chosen by simulation with the estimates
in the loop, and `FALSE_ALARM_PER_1000_STEPS` says what came out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import Literal

BASELINE_STEPS = 40
"""First values of a run that say what is usual; until then only absolute limits can alarm."""
SLACK = 2.0
"""In robust scales: rises below this are never an alarm, however long they last."""
LARGEST_Z = 6.0
"""In robust scales: what one step can say at most."""
LIMIT = 24.0
"""Of the sum. With it a rise by 6 scales or more alarms after `FEWEST_STEPS`."""
LEAST_SCALE = 0.1
"""In nats of a logarithm, i.e. 10 %: a baseline that happens to be quieter is not believed. So a
doubling (0.69) is 6.9 scales or less, and a lasting rise below 22 % is not worth an alarm."""
FALSE_ALARM_PER_1000_STEPS = 0.01
"""Largest probability that one healthy series alarms within 1,000 steps, the baseline's among them.
Healthy is: stationary, independent or
with an autocorrelation of up to 0.5, with tails up to Student's t of 3 degrees of freedom. Of 4,000
simulated runs of each the largest share was 0.7 % (t of 3 degrees, autocorrelation 0.5), of
independent ones below 0.1 % (`tests/unit/live/test_change.py` repeats it)."""
FEWEST_STEPS = math.ceil(LIMIT / (LARGEST_Z - SLACK))
"""Delay of a rise by 6 scales or more, in steps: 6. One by 4 scales takes 12, one by 3 takes 24."""
RECENT_STEPS = 3
"""Steps that say how high a series stands now."""
DRIFT_FACTOR = 1.5
"""A step by z - SLACK = e alarms after LIMIT / e steps, a steady slope that has reached e after
2 LIMIT / e; what took more than this many times LIMIT / e was no step."""

Shape = Literal["step", "drift"]


@dataclass(frozen=True)
class Rise:
    """An alarm of a series."""

    since: int
    """Step at which it began to stand above its baseline."""
    shape: Shape
    usual: float
    """Median of the baseline."""
    now: float
    """Mean of the last steps, cut off as the sum sees them."""


class Cusum:
    """Watches one series; a value that is not a number says nothing and is passed over."""

    def __init__(self) -> None:
        self.sum = 0.0
        self._first: list[float] = []
        self._usual = self._scale = math.nan
        self._rising: list[float] = []
        self._since = -1

    @property
    def has_baseline(self) -> bool:
        """Whether it can alarm yet."""
        return len(self._first) >= BASELINE_STEPS

    def update(self, step: int, value: float) -> Rise | None:
        """Take the value of a step; an alarm starts the sum again, against the same baseline."""
        if not math.isfinite(value):
            return None
        if not self.has_baseline:
            self._first.append(value)
            if self.has_baseline:
                self._usual = median(self._first)
                spread = median(abs(one - self._usual) for one in self._first)
                self._scale = max(1.4826 * spread, LEAST_SCALE)
            return None
        z = (value - self._usual) / self._scale
        excess = max(-LARGEST_Z, min(LARGEST_Z, z)) - SLACK
        if self.sum + excess <= 0:
            self.restart()
            return None
        if not self._rising:
            self._since = step
        self.sum += excess
        self._rising.append(excess)
        if self.sum < LIMIT:
            return None
        rise = self._rise()
        self.restart()
        return rise

    def restart(self) -> None:
        """Forget the rise, not the baseline."""
        self.sum = 0.0
        self._rising = []

    def _rise(self) -> Rise:
        recent = self._rising[-RECENT_STEPS:]
        height = sum(recent) / len(recent)
        slow = len(self._rising) > DRIFT_FACTOR * LIMIT / max(height, 0.5)
        shape: Shape = "drift" if slow else "step"
        now = self._usual + (height + SLACK) * self._scale
        return Rise(self._since, shape, self._usual, now)
