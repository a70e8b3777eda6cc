"""The typical ratio of errors to the floor, by hand and by simulation."""

from math import exp, sqrt

import numpy as np
import pytest

from mismatch_lab.measures.paired import typical_ratio
from mismatch_lab.measures.stats import ratio_of_means

TINY = 1e-12


def test_rows_count_alike_and_tokens_within_them() -> None:
    # Row 0: ratios 4 and 1, mean log ln 2. Row 1: 8. Of both: exp((ln 2 + ln 8) / 2) = 4.
    error, floor = np.array([4.0, 3.0, 0.8]), np.array([1.0, 3.0, 0.1])
    found = typical_ratio(error, floor, np.array([0, 0, 1]), TINY)
    assert found.value == pytest.approx(4.0)
    assert (found.n, found.n_dropped) == (3, 0)
    # Logs ln 2 and ln 8 are ln 2 either side of ln 4: error ln 2 of two rows, t(1) = 12.706.
    assert found.ci95_high == pytest.approx(4 * 2**12.7062, rel=1e-3)
    assert found.ci95_low == pytest.approx(4 / 2**12.7062, rel=1e-3)


def test_what_cannot_be_resolved_is_equal() -> None:
    # (0 + 1e-6) / (0 + 1e-6) = 1, and (2e-6 + 1e-6) / (0 + 1e-6) = 3: sqrt(3) of two rows.
    found = typical_ratio(np.array([0.0, 2e-6]), np.zeros(2), np.array([0, 1]), 1e-6)
    assert found.value == pytest.approx(sqrt(3))


def test_a_token_needs_both_and_no_token_is_no_ratio() -> None:
    error, floor = np.array([np.nan, 2.0, 2.0, 2.0]), np.array([1.0, np.inf, 1.0, 1.0])
    found = typical_ratio(error, floor, np.array([0, 0, 1, 2]), TINY)
    assert (found.n, found.n_dropped) == (2, 2)
    assert (found.value, found.ci95_low) == pytest.approx((2.0, 2.0))

    empty = typical_ratio(np.empty(0), np.empty(0), np.empty(0, np.int64), TINY)
    assert (empty.n, np.isnan(empty.value), np.isnan(empty.ci95_high)) == (0, True, True)

    one_row = typical_ratio(np.full(2, 3.0), np.ones(2), np.zeros(2, np.int64), TINY)
    assert one_row.value == pytest.approx(3.0)
    assert np.isnan(one_row.ci95_low)


def test_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        typical_ratio(np.ones(2), np.ones(1), np.zeros(2, np.int64), TINY)
    with pytest.raises(ValueError, match="above 0"):
        typical_ratio(np.ones(2), np.ones(2), np.zeros(2, np.int64), 0.0)


def test_sees_a_small_error_on_every_token_that_a_mean_does_not() -> None:
    # Nine tokens of ten have a floor of 1e-6, the tenth of 0.015, as the embedded model has in
    # bfloat16. An error of 1e-3 on each: mean (0.015 + 9 * 0.001) / (0.015 + 9e-6) = 1.6 floors;
    # typically (1e-3 / 4e-6)^0.9 = exp(0.9 * 5.52) = 144.
    floor = np.tile([1e-6] * 9 + [0.015], 4)
    error = np.tile([1e-3] * 9 + [0.015], 4)
    rows = np.repeat(np.arange(4), 10)
    assert ratio_of_means(error, floor, rows).value == pytest.approx(1.6, abs=0.01)
    found = typical_ratio(error, floor, rows, 3e-6)
    assert found.value == pytest.approx(exp(0.9 * np.log(1.003e-3 / 4e-6)), rel=1e-3)


@pytest.mark.parametrize("n_rows", [4, 8, 32])
def test_the_interval_holds_one_where_errors_are_of_one_kind(n_rows: int) -> None:
    """Two independent errors, tokens scaled over four decades, rows over one: nominal 2.5 %."""
    rng = np.random.default_rng(5)
    above = below = 0
    runs = 1000
    for _ in range(runs):
        rows = np.repeat(np.arange(n_rows), 20)
        scale = 10 ** (rng.uniform(-5, -1, len(rows)) + rng.uniform(-1, 0, n_rows)[rows])
        side, floor = np.abs(rng.normal(0, scale, (2, len(rows))))
        found = typical_ratio(side, floor, rows, 1e-7)
        above += found.ci95_low > 1
        below += found.ci95_high < 1
    assert above / runs <= 0.035
    assert below / runs <= 0.035
