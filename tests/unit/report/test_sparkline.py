"""Series as characters."""

import math

import pytest

from mismatch_lab.report.sparkline import ASCII, BLOCKS, sparkline

NAN = math.nan


def test_eight_levels_from_least_to_most() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 32) == BLOCKS
    assert sparkline([7, 0], 32, levels=ASCII) == "#_"


@pytest.mark.parametrize("values", [[2.0, 2.0, 2.0], [0.0, 0.0, 0.0], [1.0, 0.9999, 1.0]])
def test_what_three_digits_do_not_tell_apart_is_flat(values: list[float]) -> None:
    assert sparkline(values, 32) == "▄▄▄"


def test_missing_values_are_gaps() -> None:
    assert sparkline([NAN, 0, NAN, 1, math.inf], 32) == " ▁ █ "
    assert sparkline([NAN, NAN], 32) == "  "
    assert sparkline([], 32) == ""


def test_longer_series_are_means_of_parts() -> None:
    # Parts (0, 8), (4, NaN), (NaN, NaN), (2, 0): means 4, 4, none, 1.
    assert sparkline([0, 8, 4, NAN, NAN, NAN, 2, 0], 4) == "██ ▁"
    assert len(sparkline(list(range(1000)), 32)) == 32
    assert sparkline(list(range(1000)), 8) == BLOCKS


def test_log_scale_only_where_decades_are_spanned() -> None:
    # The middle one is 1 of 0..2 decades: level int(8 / 2) of 8; on a line int(0.09 * 8).
    assert sparkline([1, 10, 100], 32, log=True) == "▁▅█"
    assert sparkline([1, 10, 100], 32) == "▁▁█"
    assert sparkline([1, 5.5, 10], 32, log=True) == "▁▅█"  # not more than tenfold
    assert sparkline([0, 1, 10, 100, -1], 32, log=True) == "▁▁▅█▁"  # no log of what is not above 0
