"""A run's error over a baseline's: by hand, and how often its interval holds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mismatch_lab.measures.against_baseline import (
    POSITION_STARTS,
    PositionSums,
    baseline_ratio,
    sum_by_position,
)
from mismatch_lab.measures.student import student_quantile

RANGES = len(POSITION_STARTS)


def sums(tokens: list[list[float]], values: list[list[float]]) -> PositionSums:
    """Rows with tokens in the first ranges of positions alone."""
    pad = [0.0] * (RANGES - len(tokens[0]))
    return PositionSums(
        np.array([row + pad for row in tokens]), np.array([row + pad for row in values])
    )


def test_tokens_are_summed_by_row_and_range_of_positions() -> None:
    found = sum_by_position(
        np.array([1.0, 2.0, np.nan, 4.0, 8.0]),
        np.array([0, 0, 0, 2, 2]),
        np.array([0, 7, 8, 31, 8192]),
        n_rows=3,
    )
    assert found.tokens.tolist() == [
        [2, 0, 0, 0, 0, 0, 0],  # positions 0 and 7; 8 has no value
        [0, 0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 1],
    ]
    assert found.values[0, 0] == 3
    assert (found.values[2, 1], found.values[2, 6]) == (4, 8)


def test_the_ratio_and_its_interval_by_hand() -> None:
    baseline = sums([[1.0]] * 4, [[1.0]] * 4)
    run = sums([[1.0]] * 4, [[1.0], [2.0], [3.0], [2.0]])
    found = baseline_ratio(run, baseline, tail=0.025)
    assert found.ratio == 2  # mean 2 over mean 1
    # Without each row: 7/3, 2, 5/3, 2; jackknife error sqrt(3/4 * sum of squares of their logs).
    logs = np.log([7 / 3, 2, 5 / 3, 2])
    error = math.sqrt(0.75 * ((logs - logs.mean()) ** 2).sum())
    half = student_quantile(3) * error
    assert found.low == pytest.approx(2 * math.exp(-half))
    assert found.high == pytest.approx(2 * math.exp(half))
    assert found.shared == 1


def test_what_a_prompt_does_to_both_runs_cancels() -> None:
    prompts = [[1.0], [10.0], [100.0], [1000.0]]
    same = sums([[1.0]] * 4, prompts)
    double = sums([[1.0]] * 4, [[2 * v] for (v,) in prompts])
    found = baseline_ratio(double, same, tail=0.005)
    assert (found.low, found.ratio, found.high) == pytest.approx((2, 2, 2))


def test_longer_answers_are_no_regression() -> None:
    # Early tokens have an error of 1, later ones of 5, in both runs; the run has more later ones.
    baseline = sums([[8.0, 2.0]] * 6, [[8.0, 10.0]] * 6)
    run = sums([[8.0, 20.0]] * 6, [[8.0, 100.0]] * 6)
    plain = (8 + 100) / 28 / ((8 + 10) / 10)
    assert plain > 2  # what a comparison of means would make of it
    assert baseline_ratio(run, baseline, tail=0.005).ratio == pytest.approx(1)


def test_positions_that_the_baseline_does_not_have_are_not_compared() -> None:
    baseline = sums([[8.0, 0.0]] * 6, [[8.0, 0.0]] * 6)
    run = sums([[8.0, 24.0]] * 6, [[8.0, 99.0]] * 6)
    found = baseline_ratio(run, baseline, tail=0.005)
    assert found.ratio == pytest.approx(1)
    assert found.shared == 0.25  # 8 of 32 tokens


def test_nothing_to_compare_is_no_number() -> None:
    some, none = sums([[1.0]] * 5, [[1.0]] * 5), sums([[1.0]] * 5, [[0.0]] * 5)
    assert math.isnan(baseline_ratio(some, none, 0.01).ratio)
    assert baseline_ratio(none, some, 0.01).ratio == 0
    assert math.isnan(baseline_ratio(none, some, 0.01).high)
    few = sums([[1.0]] * 3, [[1.0]] * 3)
    assert math.isnan(baseline_ratio(few, few, 0.01).ratio)
    with pytest.raises(ValueError, match="differ in shape"):
        baseline_ratio(some, few, 0.01)


def test_the_interval_holds_what_it_says() -> None:
    rng = np.random.default_rng(0)
    missed, trials = 0, 1000
    for _ in range(trials):
        prompts = rng.lognormal(0, 0.5, (24, 1))  # what both runs share of a prompt
        a, b = (prompts * rng.lognormal(0, 0.5, (24, 1)) for _ in range(2))
        found = baseline_ratio(
            sums([[1.0]] * 24, a.tolist()), sums([[1.0]] * 24, b.tolist()), tail=0.025
        )
        missed += not found.low <= 1 <= found.high
    # 5 % at best; three standard errors of 1,000 trials are 2.1 %.
    assert missed / trials < 0.075
