"""The detector of changes keeps to its stated rate of false alarms, and to its stated delays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from mismatch_lab.live.change import (
    BASELINE_STEPS,
    FALSE_ALARM_PER_1000_STEPS,
    FEWEST_STEPS,
    Cusum,
    Rise,
)

STEPS, RUNS = 1000, 1000
HEALTHY = {
    "normal": (math.inf, 0.0),
    "heavy tails": (3.0, 0.0),
    "autocorrelated": (math.inf, 0.5),
    "heavy tails, autocorrelated": (3.0, 0.5),
}
"""Degrees of freedom and autocorrelation of each."""


def noise(rng: np.random.Generator, degrees: float, correlation: float) -> NDArray[np.float64]:
    """A stationary series [STEPS] of innovations with unit scale."""
    shocks = (
        rng.standard_normal(STEPS) if math.isinf(degrees) else rng.standard_t(degrees, size=STEPS)
    )
    for t in range(1, STEPS):
        shocks[t] += correlation * shocks[t - 1]
    return shocks


def first_alarm(series: NDArray[np.float64]) -> tuple[int, Rise] | None:
    watch = Cusum()
    for step, value in enumerate(series.tolist()):
        rise = watch.update(step, value)
        if rise is not None:
            return step, rise
    return None


@pytest.mark.parametrize("kind", HEALTHY)
def test_healthy_series_alarm_no_more_often_than_stated(kind: str) -> None:
    rng = np.random.default_rng(len(kind))
    alarms = sum(first_alarm(noise(rng, *HEALTHY[kind])) is not None for _ in range(RUNS))
    assert alarms <= FALSE_ALARM_PER_1000_STEPS * RUNS  # of 1,000 runs, 10


def test_a_detector_without_slack_would_fail_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mismatch_lab.live.change.SLACK", 0.5)
    rng = np.random.default_rng(0)
    alarms = sum(first_alarm(noise(rng, 3.0, 0.5)) is not None for _ in range(100))
    assert alarms > 20


def test_a_step_by_six_scales_takes_six_steps() -> None:
    # z is cut off at 6, of which 2 are slack: 24 / 4 steps.
    assert FEWEST_STEPS == 6
    rng = np.random.default_rng(1)
    for height in (8.0, 50.0):
        series = noise(rng, math.inf, 0.0)
        series[500:] += height
        found = first_alarm(series)
        assert found is not None
        step, rise = found
        assert 500 + FEWEST_STEPS - 1 <= step <= 500 + FEWEST_STEPS + 1
        assert (rise.shape, abs(rise.since - 500) <= 1) == ("step", True)


def test_a_step_by_four_scales_takes_twelve_on_the_average() -> None:
    rng, delays = np.random.default_rng(2), []
    for _ in range(200):
        series = noise(rng, math.inf, 0.0)
        series[500:] += 4.0
        found = first_alarm(series)
        assert found is not None
        delays.append(found[0] - 499)
    assert 11 <= np.median(delays) <= 14  # 24 / (4 - 2) = 12
    assert np.quantile(delays, 0.95) < 30


def test_a_slow_rise_is_a_drift() -> None:
    rng, shapes = np.random.default_rng(3), []
    for _ in range(50):
        series = noise(rng, math.inf, 0.0)
        series[400:] += 0.05 * np.arange(STEPS - 400)
        found = first_alarm(series)
        assert found is not None
        step, rise = found
        # The slack is used up after 2 / 0.05 = 40 steps; then 0.05 n²/2 = 24 takes n = 31.
        assert 400 < rise.since <= step < 400 + 40 + 31 + 25
        shapes.append(rise.shape)
    assert shapes.count("drift") >= 40


def test_what_rises_by_less_than_a_fifth_is_no_alarm() -> None:
    # A baseline without any spread has the least scale, 0.1: a rise by 0.19 is 1.9 scales.
    series = np.zeros(STEPS)
    series[100:] = 0.19
    assert first_alarm(series) is None
    series[100:] = 0.4  # 4 scales: 12 steps
    assert first_alarm(series) == (111, Rise(100, "step", 0.0, pytest.approx(0.4)))


def test_what_is_no_number_says_nothing_and_a_fall_is_no_alarm() -> None:
    watch = Cusum()
    for step in range(BASELINE_STEPS - 1):
        assert watch.update(step, 0.0) is None
    assert watch.update(99, float("nan")) is None
    assert not watch.has_baseline
    watch.update(100, 0.0)
    assert watch.has_baseline
    assert all(watch.update(step, -5.0) is None for step in range(101, 400))
