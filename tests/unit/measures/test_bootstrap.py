"""The resampling behind the intervals."""

import numpy as np
import pytest

from mismatch_lab.measures.bootstrap import (
    MAX_CLUSTERS,
    REPLICATES,
    expanded_tail,
    interval,
    resample_totals,
)


def test_each_replicate_draws_as_many_rows_as_there_are() -> None:
    # A column of ones counts the rows drawn.
    totals = resample_totals(np.ones((7, 1)))
    assert totals.shape == (REPLICATES, 1)
    assert (totals == 7).all()


def test_replicates_scatter_as_the_theory_of_the_bootstrap_says() -> None:
    # Rows 0..9: the variance of a bootstrap total is n times the population variance, 10 * 8.25.
    totals = resample_totals(np.arange(10.0)[:, None])
    assert totals.mean() == pytest.approx(45.0, abs=1.0)
    assert totals.var() == pytest.approx(82.5, rel=0.15)


def test_columns_are_drawn_together() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 1))
    totals = resample_totals(np.concatenate([rows, 5 * rows], axis=1))
    np.testing.assert_allclose(totals[:, 1], 5 * totals[:, 0])


def test_many_rows_are_pooled_without_losing_any_or_their_spread() -> None:
    n_rows = 3 * MAX_CLUSTERS + 1
    rows = np.random.default_rng(0).normal(size=n_rows)
    totals = resample_totals(np.stack([rows, np.ones(n_rows)], axis=1))
    # The last block is short, so the number of rows drawn varies around the whole by little.
    assert totals[:, 1].mean() == pytest.approx(n_rows, rel=1e-3)
    assert totals[:, 0].std() == pytest.approx(np.sqrt(n_rows), rel=0.1)


def test_no_rows_give_nan() -> None:
    assert np.isnan(resample_totals(np.empty((0, 3)))).all()


def test_same_input_gives_the_same_replicates() -> None:
    rows = np.arange(12.0).reshape(6, 2)
    np.testing.assert_array_equal(resample_totals(rows), resample_totals(rows))


@pytest.mark.parametrize(("n_clusters", "student_975"), [(5, 2.776), (10, 2.262), (31, 2.042)])
def test_tail_is_widened_to_students_width(n_clusters: int, student_975: float) -> None:
    # Table values of t at 4, 9 and 30 degrees of freedom, and Phi by an independent route.
    from math import erfc, sqrt

    t = student_975 * sqrt(n_clusters / (n_clusters - 1))
    assert expanded_tail(n_clusters) == pytest.approx(erfc(t / sqrt(2)) / 2, rel=0.02)


def test_tail_tends_to_a_fortieth() -> None:
    assert expanded_tail(100_000) == pytest.approx(0.025, rel=1e-3)


def test_interval_ignores_replicates_without_data_and_needs_two_rows() -> None:
    replicates = np.concatenate([np.full(500, np.nan), np.linspace(0, 1, 500)])
    low, high = interval(replicates, 10_000)
    assert (low, high) == pytest.approx((0.025, 0.975), abs=0.003)
    assert np.isnan(interval(replicates, 1)).all()
    assert np.isnan(interval(np.full(10, np.nan), 5)).all()


def test_interval_of_infinite_replicates_is_infinite() -> None:
    assert interval(np.full(1000, np.inf), 5) == (np.inf, np.inf)
