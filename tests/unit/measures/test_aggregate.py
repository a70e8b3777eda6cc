"""Aggregates merge to what one pass over everything gives."""

from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mismatch_lab.measures import measure_edge
from mismatch_lab.measures.aggregate import DeltaAggregate, MeanAggregate
from mismatch_lab.measures.histogram import RELATIVE_RESOLUTION, LogHistogram

_logp = st.floats(-30, 0) | st.sampled_from([float("nan"), float("-inf")])
_row = st.lists(st.tuples(_logp, _logp), min_size=1, max_size=4)
_batch = st.lists(_row, max_size=5)


def _arrays(batch: list[list[tuple[float, float]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pairs = np.array([pair for row in batch for pair in row]).reshape(-1, 2)
    rows = np.repeat(np.arange(len(batch)), [len(row) for row in batch])
    return pairs[:, 0], pairs[:, 1], rows


@given(_batch, _batch)
def test_merging_equals_one_pass(first: list, second: list) -> None:
    merged = DeltaAggregate.of(*_arrays(first)).merge(DeltaAggregate.of(*_arrays(second)))
    whole = DeltaAggregate.of(*_arrays(first + second))
    np.testing.assert_allclose(merged.totals, whole.totals, rtol=1e-12)
    np.testing.assert_array_equal(merged.abs_delta.counts, whole.abs_delta.counts)
    assert merged.abs_delta_max == whole.abs_delta_max


@given(_batch)
def test_aggregate_agrees_with_measure_edge(batch: list) -> None:
    exact = measure_edge(*_arrays(batch))
    for name, estimate in DeltaAggregate.of(*_arrays(batch)).estimates().items():
        assert (estimate.n, estimate.n_dropped) == (exact[name].n, exact[name].n_dropped)
        assert isnan(estimate.ci95_low)
        if name not in {"abs_delta_p50", "abs_delta_p99"}:
            np.testing.assert_array_equal(estimate.value, exact[name].value)


@given(st.lists(st.floats(allow_nan=True, width=32)), st.lists(st.floats(-1e6, 1e6)))
def test_means_merge(first: list[float], second: list[float]) -> None:
    a, b = np.array(first, dtype=np.float64), np.array(second, dtype=np.float64)
    merged = MeanAggregate.of(a).merge(MeanAggregate.of(b))
    whole = MeanAggregate.of(np.concatenate([a, b]))
    assert (merged.n, merged.n_dropped) == (whole.n, whole.n_dropped)
    scale = np.abs(np.concatenate([a, b])[np.isfinite(np.concatenate([a, b]))]).sum()
    np.testing.assert_allclose(merged.total, whole.total, rtol=1e-12, atol=1e-12 * scale)


def test_mean_of_unequal_parts_is_no_mean_of_means() -> None:
    # 1 | 2 3 6: the mean is 3, the mean of the means (1 + 11/3) / 2 = 2.33.
    merged = MeanAggregate.of(np.array([1.0])).merge(MeanAggregate.of(np.array([2.0, 3.0, 6.0])))
    assert (merged.value, merged.n) == (3.0, 4)


def test_no_data_is_nan_and_merges_as_nothing() -> None:
    nothing = MeanAggregate()
    assert isnan(nothing.value)
    assert nothing.merge(MeanAggregate.of(np.array([2.0, np.nan]))) == MeanAggregate(2.0, 1, 1)


def test_streamed_quantiles_are_within_the_stated_resolution() -> None:
    rng = np.random.default_rng(0)
    abs_delta = np.exp(rng.normal(-5, 2, size=5001))
    infer = np.full(abs_delta.size, -1.0)
    rows = np.arange(abs_delta.size) // 100
    streamed = DeltaAggregate.of(infer, infer + abs_delta, rows).estimates()
    for name, p in (("abs_delta_p50", 0.5), ("abs_delta_p99", 0.99)):
        # Rank (n - 1) p is whole, so that no interpolation blurs the comparison.
        exact = np.sort(abs_delta)[int(5000 * p)]
        assert streamed[name].value == pytest.approx(exact, rel=RELATIVE_RESOLUTION * 1.01)
    assert RELATIVE_RESOLUTION < 0.012


def test_histogram_ends() -> None:
    # Zero and what is below 1e-9 read as 0, what is above 1e3 as 1e3; nothing is lost.
    histogram = LogHistogram.of(np.array([0.0, 1e-12, 1.0, 1e9]))
    assert histogram.counts.sum() == 4
    assert histogram.quantile(0.0) == 0.0
    assert histogram.quantile(1.0) == 1e3
    assert isnan(LogHistogram.of(np.empty(0)).quantile(0.5))


def test_histogram_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(ValueError, match="finite, non-negative"):
        LogHistogram.of(np.array([-1.0]))


def test_lengths_are_named_when_they_differ() -> None:
    with pytest.raises(ValueError, match="logp_infer has 2, logp_train has 1"):
        DeltaAggregate.of(np.zeros(2), np.zeros(1), np.zeros(2, dtype=np.int64))
