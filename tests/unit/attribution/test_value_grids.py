"""Formats that values come in, by the values alone."""

from __future__ import annotations

import numpy as np
import pytest
from builders import a_suspect, rows_of

from mismatch_lab.attribution.changes import Float64
from mismatch_lab.attribution.value_grids import rounded_expected, value_grid
from mismatch_lab.measures.grids import to_bfloat16, to_float16

ROWS = rows_of(101)


def logp() -> Float64:
    """100 float32 numbers between -3 and 0 that no coarse format holds."""
    drawn = -3 * np.random.default_rng(1).random(101).astype(np.float32).astype(np.float64)
    drawn[0] = np.nan
    return drawn


def test_float32_values_lie_on_no_grid() -> None:
    assert value_grid(logp(), ROWS) is None


@pytest.mark.parametrize("digits", [2, 3, 4])
def test_few_decimals_are_told(digits: int) -> None:
    found = value_grid(np.round(logp(), digits), ROWS)
    assert found is not None
    (change,) = found.hypothesis.tokens
    assert (change.name, change.value) == ("decimals", digits)
    assert found.share == 1.0
    assert found.n > 95  # zeros do not count


def test_short_formats_are_told() -> None:
    for values, name in ((to_bfloat16(logp()), "through_bfloat16"),
                         (to_float16(logp()), "through_float16")):  # fmt: skip
        found = value_grid(values, ROWS)
        assert found is not None
        assert found.hypothesis.cause == "logprob-precision"
        assert [change.name for change in found.hypothesis.tokens] == [name]
        assert found.n == 100


def test_two_values_off_the_grid_in_a_hundred_are_enough_for_one() -> None:
    values = to_bfloat16(logp())
    values[:3] = [np.nan, -0.7001, -0.9001]
    found = value_grid(values, ROWS)
    assert found is not None
    assert found.share == pytest.approx(0.98)
    values[3] = -1.1001
    assert value_grid(values, ROWS) is None


def test_few_values_or_few_different_ones_say_nothing() -> None:
    few = to_bfloat16(logp())
    few[50:] = np.nan  # 49 are left
    assert value_grid(few, ROWS) is None
    same = np.where(np.arange(101) % 2, -1.0, -2.0)
    assert value_grid(same, ROWS) is None


def test_the_suspect_is_held_against_rounded_values() -> None:
    grid = value_grid(np.round(logp(), 2), ROWS)
    assert grid is not None
    rows = rows_of(3)
    suspect = a_suspect([np.nan, -1.26, -0.5], [np.nan, -1.254, -0.4])
    found = rounded_expected(suspect, grid, rows)
    # -1.254 is -1.25 with two decimals: 0.01 and 0.1 are left.
    assert found.error_nats == pytest.approx(0.055)
    assert found.expected[1:].tolist() == [-1.25, -0.4]
    assert found.observed is suspect.observed
