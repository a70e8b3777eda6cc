import numpy as np

from mismatch_lab.captures.align import Aligned
from mismatch_lab.report.series import N_BINS, token_series


def pair(delta: list[float]) -> Aligned:
    n = len(delta)
    infer = np.full(n, -1.0, np.float32)
    empty = np.zeros(0, np.int64)
    one_row = np.zeros(n, np.int64)
    train = infer + np.array(delta, np.float32)
    return Aligned(np.arange(n), one_row, infer, train, (empty, empty))


def test_histogram_counts_every_finite_token() -> None:
    series = token_series(pair([0.5, -0.25, 0.0, 1e-6, np.nan, np.inf]))
    assert series.histogram is not None
    # Four finite tokens, two dropped; the extremes are inside the outer bins.
    assert (series.histogram.counts.sum(), series.histogram.n_dropped) == (4, 2)
    assert (series.histogram.below, series.histogram.above) == (0, 0)
    assert len(series.histogram.counts) == N_BINS


def test_axis_turns_logarithmic_only_where_a_tail_needs_it() -> None:
    # Largest 4 times the typical: linear, so the scale is the largest itself.
    assert token_series(pair([0.25, -0.25, 1.0])).scale_nats == 1.0
    # Largest 64 times the typical: linear up to the typical.
    assert token_series(pair([0.015625, -0.015625, 1.0])).scale_nats == 0.015625


def test_short_responses_have_a_bin_for_each_position_and_long_ones_grow() -> None:
    short = token_series(pair([0.5] * 5)).positions
    assert [(s.low, s.high) for s in short] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    long = token_series(pair([0.5] * 500)).positions
    assert (long[0].low, long[0].high, long[-1].high) == (0, 1, 500)
    assert sum(s.abs_delta_mean.n for s in long) == 500
    assert len(long) <= 21


def test_all_equal_gives_one_bar_and_no_data_gives_none() -> None:
    series = token_series(pair([0.0, 0.0]))
    assert series.histogram is not None
    assert series.histogram.counts.max() == 2
    assert token_series(pair([np.nan])).histogram is None
    assert token_series(pair([])).positions == []
