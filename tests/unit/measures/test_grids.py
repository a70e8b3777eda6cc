"""What coarse formats can hold."""

from __future__ import annotations

import numpy as np
import pytest

from mismatch_lab.measures.grids import on_grid_share, to_bfloat16, to_float16

# Between 1 and 2 bfloat16 has steps of 2^-7 = 0.0078125, so that 1 + 2^-8 lies half way.
STEP = 2.0**-7


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1.0, 1.0),
        (1 + STEP / 2, 1.0),  # a tie goes to the even one
        (1 + 3 * STEP / 2, 1 + 2 * STEP),
        (1 + STEP / 2 + 2.0**-20, 1 + STEP),
        (-1 - STEP, -1 - STEP),
        (-0.0, 0.0),
        (3.4e38, np.inf),  # beyond the largest, 3.39e38
        (np.inf, np.inf),
        (-np.inf, -np.inf),
        (np.nan, np.nan),
    ],
)
def test_to_bfloat16(value: float, rounded: float) -> None:
    np.testing.assert_array_equal(to_bfloat16(np.array([value])), [rounded])
    np.testing.assert_array_equal(to_bfloat16(np.array([value], np.float32)), [rounded])


def test_shapes_are_kept() -> None:
    assert to_bfloat16(np.ones((2, 3))[:, ::2]).shape == (2, 2)


def test_to_float16() -> None:
    # Steps of 2^-10 between 1 and 2; nothing above 65504.
    values = np.array([1 + 2.0**-10, 1 + 2.0**-12, 1e5, -np.inf, np.nan])
    np.testing.assert_array_equal(to_float16(values), [1 + 2.0**-10, 1.0, np.inf, -np.inf, np.nan])


def test_the_share_on_the_grid_counts_finite_values_other_than_0() -> None:
    values = np.array([0.5, 0.7, 0.0, np.nan, -np.inf, 0.25], np.float32)
    assert on_grid_share(values, to_bfloat16(values)) == pytest.approx(2 / 3)
    assert np.isnan(on_grid_share(np.array([0.0, np.nan]), np.zeros(2)))
