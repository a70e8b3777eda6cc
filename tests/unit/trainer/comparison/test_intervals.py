"""Student's intervals against closed forms and printed tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mismatch_lab.measures.student import student_quantile
from mismatch_lab.trainer.comparison.shown import HELD_OUT, MEAN_ABS_DELTA, SHOWN
from mismatch_lab.trainer.comparison.summary import mean_over_seeds


def test_quantiles_with_a_closed_form() -> None:
    # 1 degree: P(|T| <= t) = 2/pi atan t. 2: t / sqrt(2 + t^2), so t = p sqrt(2 / (1 - p^2)).
    assert student_quantile(1) == pytest.approx(math.tan(0.475 * math.pi), rel=1e-12)
    assert student_quantile(2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-12)


@pytest.mark.parametrize(
    ("dof", "printed"),  # two-sided 95 % points as every textbook prints them
    [(3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (10, 2.228), (30, 2.042), (120, 1.980)],
)
def test_quantiles_as_printed(dof: int, printed: float) -> None:
    assert student_quantile(dof) == pytest.approx(printed, abs=5.1e-4)


def test_another_confidence_and_no_freedom() -> None:
    assert student_quantile(7, 0.99) == pytest.approx(3.499, abs=5e-4)
    with pytest.raises(ValueError, match="0 degrees"):
        student_quantile(0)


def test_mean_of_three_seeds() -> None:
    # 1, 2, 3: mean 2, s = 1, t(2) = 4.30265, half = 4.30265 / sqrt 3 = 2.48414.
    found = mean_over_seeds(np.array([1.0, 2.0, 3.0]))
    assert (found.value, found.n, found.n_dropped) == (2.0, 3, 0)
    assert found.ci95 == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-5)


def test_two_seeds_are_half_their_distance_times_t() -> None:
    # 0, 1: s = sqrt(1/2), s / sqrt 2 = 1/2, t(1) = 12.7062.
    found = mean_over_seeds(np.array([0.0, math.nan, 1.0]))
    assert (found.n, found.n_dropped) == (2, 1)
    assert found.ci95[1] - 0.5 == pytest.approx(12.7062 / 2, abs=1e-4)


def test_an_interval_ends_where_the_measure_does() -> None:
    # 0.11, 0.58, 0.62: mean 0.4367, s = 0.2836, half = 4.30265 * 0.2836 / sqrt 3 = 0.7045.
    values = np.array([0.11, 0.58, 0.62])
    assert mean_over_seeds(values).ci95 == pytest.approx((-0.2679, 1.1412), abs=1e-3)
    accuracy = mean_over_seeds(values, *SHOWN[HELD_OUT].bounds)
    assert (accuracy.value, accuracy.ci95) == (pytest.approx(0.43667, abs=1e-5), (0.0, 1.0))
    assert SHOWN[HELD_OUT].bounds_of_difference == (-1.0, 1.0)
    assert SHOWN[MEAN_ABS_DELTA].bounds == (0.0, math.inf)
    assert SHOWN["grad_norm"].bounds[0] <= 0
    assert all(map(math.isnan, mean_over_seeds(np.array([0.7]), 0.0, 1.0).ci95))


def test_one_seed_has_no_interval_and_none_no_value() -> None:
    one = mean_over_seeds(np.array([0.7]))
    assert one.value == 0.7
    assert one.n == 1
    assert all(map(math.isnan, one.ci95))
    none = mean_over_seeds(np.array([math.inf, math.nan]))
    assert math.isnan(none.value)
    assert (none.n, none.n_dropped) == (0, 2)
