"""Student's interval, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mismatch_lab.measures.student import mean_of_few


def test_three_values() -> None:
    # Mean 2, deviation 1; t(2) = 4.302653, and 4.302653 / sqrt(3) = 2.484138.
    found = mean_of_few(np.array([1.0, 2.0, 3.0]))
    assert (found.value, found.n, found.n_dropped) == (2.0, 3, 0)
    assert found.ci95_low == pytest.approx(2 - 2.484138, abs=1e-6)
    assert found.ci95_high == pytest.approx(2 + 2.484138, abs=1e-6)


def test_two_values_and_one_that_is_none() -> None:
    # Mean 2, deviation sqrt(2); t(1) = 12.706205, times sqrt(2) / sqrt(2).
    found = mean_of_few(np.array([1.0, np.nan, 3.0]))
    assert (found.value, found.n, found.n_dropped) == (2.0, 2, 1)
    assert found.ci95_high - found.value == pytest.approx(12.706205, abs=1e-5)


def test_one_value_has_no_interval() -> None:
    found = mean_of_few(np.array([1.5]))
    assert found.value == 1.5
    assert math.isnan(found.ci95_low)
    assert math.isnan(found.ci95_high)


def test_no_data_is_nan_with_n_0() -> None:
    found = mean_of_few(np.array([np.inf, np.nan]))
    assert math.isnan(found.value)
    assert (found.n, found.n_dropped) == (0, 2)
