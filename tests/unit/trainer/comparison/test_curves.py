"""Metrics of runs on the axis of steps made, and over seeds."""

from __future__ import annotations

import math

import numpy as np

from mismatch_lab.trainer.comparison.curves import curve, final, series, window_steps
from mismatch_lab.trainer.comparison.shown import GAIN, HELD_OUT

ROWS = [
    {"step": 0, "reward": 0.1, HELD_OUT: 0.5},
    {"step": 1, "reward": 0.2},
    {"step": 2, "reward": None, HELD_OUT: 0.6},
    {"step": 3, "reward": 0.4},
    {"step": 4, HELD_OUT: 0.75},
]


def test_a_null_is_no_number() -> None:
    assert series(ROWS, HELD_OUT) == {0: 0.5, 2: 0.6, 4: 0.75}
    found = series(ROWS, "reward")
    assert list(found) == [0, 1, 2, 3]
    assert math.isnan(found[2])
    assert series(ROWS, "absent") == {}


def test_curve_over_seeds_counts_who_is_there() -> None:
    found = curve([{0: 1.0, 2: 3.0, 3: math.nan}, {0: 2.0, 2: 5.0}, {0: 6.0}])
    assert found.steps_made == (0, 2, 3)
    assert found.mean[:2] == (3.0, 4.0)
    assert found.low[:2] == (1.0, 3.0)
    assert found.high[:2] == (6.0, 5.0)
    assert found.n == (3, 2, 0)
    assert math.isnan(found.mean[2])


def test_window_is_a_tenth_but_at_least_five() -> None:
    assert [window_steps(n) for n in (3, 5, 40, 101)] == [3, 5, 5, 11]


def test_final_values() -> None:
    assert final(ROWS, HELD_OUT, 4) == 0.75
    assert final(ROWS, GAIN, 4) == 0.25
    # Window of 4 steps, one of them null: (0.1 + 0.2 + 0.4) / 3.
    assert np.isclose(final(ROWS, "reward", 4), 0.7 / 3)
    rows = [{"step": s, "reward": float(s)} for s in range(10)]
    assert final(rows, "reward", 10) == 7.0  # 5, 6, 7, 8, 9
    assert math.isnan(final(rows, HELD_OUT, 10))
    assert math.isnan(final(ROWS, HELD_OUT, 8))  # that moment was not reached
