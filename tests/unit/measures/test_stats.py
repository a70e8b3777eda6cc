"""Means, quantiles and ratios over tokens in rows: values by hand, coverage by simulation."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from mismatch_lab.measures.stats import Estimate, mean_estimate, quantile_estimates, ratio_of_means

ROWS = np.array([0, 0, 1, 2])


def test_mean_leaves_non_finite_values_out_of_both_sides() -> None:
    # (1 + 3 + 8) / 3, not / 4 and not NaN.
    estimate = mean_estimate(np.array([1.0, np.inf, 3.0, 8.0]), ROWS)
    assert (estimate.value, estimate.n, estimate.n_dropped) == (4.0, 3, 1)


def test_mean_is_over_tokens_not_over_rows() -> None:
    # Tokens: (1 + 1 + 4 + 6) / 4 = 3. A mean of row means would be (1 + 4 + 6) / 3.
    assert mean_estimate(np.array([1.0, 1.0, 4.0, 6.0]), ROWS).value == 3.0


def test_interval_of_a_mean_of_few_rows_is_students() -> None:
    # Of three rows, Student's interval of the log is the wider one. Without a row each the mean is
    # 5, 8/3 and 2: ln 1.6094, 0.9808, 0.6931, spread 0.4381, error sqrt(2/3 * 0.4381) = 0.5404;
    # t(2) = 4.3027, so 3 exp(-2.325) = 0.2933 and 3 exp(2.325) = 30.69.
    estimate = mean_estimate(np.array([1.0, 1.0, 4.0, 6.0]), ROWS)
    assert (estimate.ci95_low, estimate.ci95_high) == pytest.approx((0.2933, 30.69), rel=5e-3)


def test_rows_that_agree_have_an_interval_of_no_width() -> None:
    # Each row's mean is 2, so whichever rows are drawn the mean is 2: spread inside rows is moot.
    estimate = mean_estimate(np.array([1.0, 3.0, 1.0, 3.0]), np.array([0, 0, 1, 1]))
    assert (estimate.ci95_low, estimate.ci95_high) == (2.0, 2.0)


def test_empty_and_single_row() -> None:
    empty = mean_estimate(np.empty(0), np.empty(0, dtype=np.int64))
    assert np.isnan(empty.value)
    assert empty.n == 0
    single = mean_estimate(np.array([1.0, 3.0]), np.array([5, 5]))
    assert single.value == 2.0
    assert np.isnan([single.ci95_low, single.ci95_high]).all()


def test_estimates_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        mean_estimate(np.ones(4), ROWS).value = 2.0  # type: ignore[misc]


def test_lengths_are_named_when_they_differ() -> None:
    with pytest.raises(ValueError, match="values has 3, row_ids has 4"):
        mean_estimate(np.ones(3), ROWS)
    with pytest.raises(ValueError, match="denominator_per_token has 1"):
        ratio_of_means(np.ones(4), np.ones(1), ROWS)


def test_quantiles_equal_numpys() -> None:
    values = np.random.default_rng(0).exponential(1.0, 1001)
    rows = np.arange(1001) // 10
    for p, estimate in zip(
        (0.0, 0.5, 0.9, 1.0), quantile_estimates(values, rows, (0.0, 0.5, 0.9, 1.0)), strict=True
    ):
        assert estimate.value == pytest.approx(np.quantile(values, p), rel=1e-15)


def test_quantile_interval_is_none_for_extremes() -> None:
    values = np.arange(100.0)
    median, maximum = quantile_estimates(values, np.arange(100) // 5, (0.5, 1.0))
    assert median.ci95_low < median.value < median.ci95_high
    assert maximum.value == 99.0
    assert np.isnan([maximum.ci95_low, maximum.ci95_high]).all()


def test_quantile_interval_reaches_towards_the_row_that_may_be_drawn_more_often() -> None:
    # Nine rows of 0..9, one of 100..109. Drawing the odd row three times puts 30 % of the tokens at
    # 100 or more, so the 85 % point reaches the maximum; never drawing it leaves 90 of 90 tokens
    # below, which moves the point down by 0.85 / 0.9 - 0.85 = 0.094, to rank 74.8 of 0..89 in
    # steps of nine tokens: 8. With the shift's sign wrong it would be 6 to 104.
    values = np.concatenate([np.tile(np.arange(10.0), 9), np.arange(100.0, 110.0)])
    (estimate,) = quantile_estimates(values, np.arange(100) // 10, (0.85,))
    assert estimate.value == 9.0
    assert (estimate.ci95_low, estimate.ci95_high) == (8.0, 109.0)


def test_quantile_interval_of_rows_that_agree_has_no_width_despite_ties() -> None:
    # Each row holds 1 2 2 2 3: whichever are drawn, the median is 2, though 80 % are at or below.
    values = np.tile([1.0, 2.0, 2.0, 2.0, 3.0], 6)
    (estimate,) = quantile_estimates(values, np.arange(30) // 5, (0.5,))
    assert (estimate.ci95_low, estimate.value, estimate.ci95_high) == (2.0, 2.0, 2.0)


def test_quantiles_drop_infinities() -> None:
    # 1 2 3 remain: median 2.
    (estimate,) = quantile_estimates(np.array([3.0, np.inf, 1.0, 2.0]), ROWS, (0.5,))
    assert (estimate.value, estimate.n, estimate.n_dropped) == (2.0, 3, 1)


def test_ratio_of_means_is_no_mean_of_ratios() -> None:
    # (2 + 6) / (1 + 2) = 8/3; the mean of the ratios would be (2 + 3) / 2.
    estimate = ratio_of_means(np.array([2.0, 6.0]), np.array([1.0, 2.0]), np.array([0, 1]))
    assert estimate.value == pytest.approx(8 / 3)
    assert estimate.n == 2


def test_ratio_of_means_pairs_rows() -> None:
    # Rows differ a hundredfold, but numerator = 3 * denominator in each: paired draws always give
    # exactly 3, unpaired ones would range over orders of magnitude.
    floor = np.array([1.0, 1.0, 100.0, 0.5, 7.0])
    estimate = ratio_of_means(3 * floor, floor, np.array([0, 0, 1, 2, 3]))
    assert (estimate.ci95_low, estimate.ci95_high) == pytest.approx((3.0, 3.0))


def test_ratio_of_means_needs_both_values_of_a_token() -> None:
    # Tokens 0 and 3 remain: (2 + 4) / (1 + 1).
    estimate = ratio_of_means(
        np.array([2.0, np.nan, 9.0, 4.0]), np.array([1.0, 1.0, np.inf, 1.0]), ROWS
    )
    assert (estimate.value, estimate.n, estimate.n_dropped) == (3.0, 2, 2)


def test_ratio_over_a_floor_of_zero_is_infinite_and_over_nothing_nan() -> None:
    assert ratio_of_means(np.ones(4), np.zeros(4), ROWS).value == np.inf
    assert np.isnan(ratio_of_means(np.zeros(4), np.zeros(4), ROWS).value)
    empty = ratio_of_means(np.empty(0), np.empty(0), np.empty(0, dtype=np.int64))
    assert np.isnan(empty.value)
    assert empty.n == 0


def _correlated(rng: np.random.Generator, n_rows: int, n_tokens: int) -> np.ndarray:
    """Tokens of mean 0 whose rows share an offset as large as the noise: correlation 1/2."""
    return (rng.normal(size=(n_rows, 1)) + rng.normal(size=(n_rows, n_tokens))).ravel()


def _covers(estimate: Estimate, truth: float) -> bool:
    return estimate.ci95_low <= truth <= estimate.ci95_high


@pytest.mark.parametrize("n_rows", [8, 40])
def test_intervals_cover_the_truth_although_tokens_of_a_row_correlate(n_rows: int) -> None:
    rng = np.random.default_rng(7)
    rows = np.repeat(np.arange(n_rows), 25)
    n_sets = 300
    mean_covers = median_covers = naive_covers = 0
    for _ in range(n_sets):
        values = _correlated(rng, n_rows, 25)
        mean_covers += _covers(mean_estimate(values, rows), 0.0)
        median_covers += _covers(quantile_estimates(values, rows, (0.5,))[0], 0.0)
        naive_covers += abs(values.mean()) < 1.96 * values.std() / np.sqrt(values.size)
    # 0.95 +- 3 standard errors of 300 draws is 0.91 to 0.99. The naive interval is too short by
    # sqrt(1 + 24/2) = 3.6 and covers 2 Phi(1.96/3.6) - 1 = 0.41 of the time.
    assert mean_covers / n_sets >= 0.91
    assert median_covers / n_sets >= 0.91
    assert naive_covers / n_sets <= 0.55


def test_intervals_are_not_needlessly_wide() -> None:
    # 400 independent tokens of variance 1 in rows of one: half-width 1.96 / sqrt(400) = 0.098.
    values = np.random.default_rng(3).normal(size=400)
    estimate = mean_estimate(values, np.arange(400))
    assert (estimate.ci95_high - estimate.ci95_low) / 2 == pytest.approx(0.098, rel=0.15)
