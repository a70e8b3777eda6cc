"""Strata, histogram and worst tokens."""

from math import log

import numpy as np
import pytest

from mismatch_lab.measures.tokens import (
    DELTA_EDGES,
    by_position,
    by_probability,
    delta_histogram,
    worst_tokens,
)

DELTA = np.array([1.0, -2.0, 3.0, np.nan, -5.0])
ROWS = np.array([0, 0, 1, 1, 2])


def test_by_position_by_hand() -> None:
    # Bins [0, 1) holds tokens 0 and 4, [1, 3) tokens 1 and 2 and the dropped 3, [3, 9) nothing.
    first, second, third = by_position(DELTA, np.array([0, 1, 2, 2, 0]), ROWS, (0, 1, 3, 9))
    assert (first.mean_delta.value, first.abs_delta_mean.value) == (-2.0, 3.0)
    assert (second.mean_delta.value, second.abs_delta_mean.value) == (0.5, 2.5)
    assert (second.mean_delta.n, second.mean_delta.n_dropped) == (2, 1)
    assert (second.abs_delta_mean.n, second.abs_delta_mean.n_dropped) == (2, 1)
    assert np.isnan(third.mean_delta.value)
    assert third.mean_delta.n == 0
    assert (first.low, first.high, third.high) == (0, 1, 9)


def test_tokens_outside_the_edges_are_in_no_stratum() -> None:
    (only,) = by_position(DELTA, np.array([0, 4, 5, 9, 9]), ROWS, (4, 9))
    # Tokens 1 and 2.
    assert (only.mean_delta.n, only.mean_delta.n_dropped) == (2, 0)


def test_by_probability_bins_the_engines_probability() -> None:
    # Probabilities 0.5, 0.05, 0.05, 1.0 (dropped: its delta is NaN), 1.0.
    logp = np.array([log(0.5), log(0.05), log(0.05), 0.0, 0.0])
    low, middle, high = by_probability(DELTA, logp, ROWS, (0, 0.1, 0.9, np.inf))
    assert (low.mean_delta.value, middle.mean_delta.value) == (0.5, 1.0)
    assert (high.mean_delta.value, high.mean_delta.n_dropped) == (-5.0, 1)


def test_a_stratum_met_in_one_row_only_has_no_interval() -> None:
    first, second = by_position(
        np.array([1.0, 2.0, 4.0]), np.array([0, 0, 1]), np.array([0, 1, 1]), (0, 1, 2)
    )
    assert np.isfinite(first.mean_delta.ci95_low)
    assert np.isnan(second.mean_delta.ci95_low)


def test_chunks_of_a_long_input_add_up() -> None:
    # 200,000 tokens in rows of 999 straddle the chunk borders; position parity picks the stratum.
    rng = np.random.default_rng(0)
    delta, rows = rng.normal(size=200_000), np.arange(200_000) // 999
    even, odd = by_position(delta, np.arange(200_000) % 2, rows, (0, 1, 2))
    assert even.abs_delta_mean.value == pytest.approx(np.abs(delta[::2]).mean(), rel=1e-12)
    assert odd.mean_delta.value == pytest.approx(delta[1::2].mean(), rel=1e-9)
    # Independent of how the tokens are cut: 201 rows of 499.5 tokens each, 1.96 sigma / sqrt(n).
    width = (odd.mean_delta.ci95_high - odd.mean_delta.ci95_low) / 2
    assert width == pytest.approx(1.96 / np.sqrt(100_000), rel=0.2)


def test_edges_must_ascend() -> None:
    with pytest.raises(ValueError, match="edges must ascend"):
        by_position(DELTA, np.zeros(5, dtype=np.int64), ROWS, (0, 0))


def test_lengths_are_named_when_they_differ() -> None:
    with pytest.raises(ValueError, match="delta has 5, positions has 2"):
        by_position(DELTA, np.array([0, 1]), ROWS)
    with pytest.raises(ValueError, match="logp_infer has 2"):
        by_probability(DELTA, np.zeros(2), ROWS)


def test_empty_strata_are_nan() -> None:
    strata = by_position(np.empty(0), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    assert all(s.mean_delta.n == 0 and np.isnan(s.mean_delta.value) for s in strata)


def test_histogram_by_hand_loses_no_token() -> None:
    # -5 below, -2 in [-2, 0), 1 and 2 in [0, 2], 3 above, NaN dropped.
    histogram = delta_histogram(np.append(DELTA, 2.0), np.array([-2.0, 0.0, 2.0]))
    assert histogram.counts.tolist() == [1, 2]
    assert (histogram.below, histogram.above, histogram.n_dropped) == (1, 1, 1)


def test_default_edges_are_symmetric_and_ascend() -> None:
    assert (np.diff(DELTA_EDGES) > 0).all()
    np.testing.assert_array_equal(DELTA_EDGES, -DELTA_EDGES[::-1])


def test_worst_tokens_are_ordered_and_ties_stable() -> None:
    delta = np.array([1.0, -3.0, np.nan, 3.0, 2.0, -3.0, np.inf])
    # |delta| 3 at 1, 3 and 5, then 2 at 4.
    assert worst_tokens(delta, 2).tolist() == [1, 3]
    assert worst_tokens(delta, 4).tolist() == [1, 3, 5, 4]


def test_ties_are_stable_in_long_inputs() -> None:
    # 5,000 tokens of |delta| 1, 2 or 3 in random order; numpy's default sort would mix the ties up.
    delta = np.random.default_rng(0).integers(1, 4, 5000).astype(np.float64)
    expected = np.concatenate([np.flatnonzero(delta == size) for size in (3, 2, 1)])
    np.testing.assert_array_equal(worst_tokens(delta, 4000), expected[:4000])


def test_worst_tokens_of_fewer_than_asked() -> None:
    assert worst_tokens(DELTA, 10).tolist() == [4, 2, 1, 0]
    assert worst_tokens(np.array([np.nan]), 3).tolist() == []
    assert worst_tokens(DELTA, 0).tolist() == []
