"""Hidden-state errors on vectors worked out by hand."""

from math import sqrt

import numpy as np
import pytest

from mismatch_lab.measures.hidden import HiddenError, hidden_error

REFERENCE = np.array([[3.0, 4.0], [0.0, 5.0]])
ROWS = np.array([0, 1])


def test_errors_by_hand() -> None:
    # Differences (3, 0) and (0, -5): squared 9 and 25; reference 25 and 25.
    result = hidden_error(np.array([[6.0, 4.0], [0.0, 0.0]]), REFERENCE, ROWS)
    assert result.relative_error.value == pytest.approx(sqrt(34 / 50))
    np.testing.assert_allclose(result.per_position_error, [3 / 5, 1.0])
    # hidden . reference = 18 + 16 = 34, |hidden|^2 = 52, |reference|^2 = 50.
    assert result.cosine == pytest.approx(34 / sqrt(52 * 50))
    assert result.norm_ratio == pytest.approx(sqrt(52 / 50))
    assert result.best_fit_scale == pytest.approx(34 / 50)
    # 52 - 34^2 / 50 = 28.88
    assert result.residual_after_scale == pytest.approx(sqrt(28.88 / 50))


def test_error_is_relative_to_the_reference() -> None:
    # hidden = 2 reference: error 1. Relative to hidden it would be 1/2.
    assert hidden_error(2 * REFERENCE, REFERENCE, ROWS).relative_error.value == pytest.approx(1.0)


def test_a_missing_scale_leaves_no_residual() -> None:
    result = hidden_error(1.5 * REFERENCE, REFERENCE, ROWS)
    assert result.best_fit_scale == pytest.approx(1.5)
    assert result.norm_ratio == pytest.approx(1.5)
    assert result.cosine == pytest.approx(1.0)
    assert result.residual_after_scale == pytest.approx(0.0, abs=1e-9)


def test_a_tiny_difference_is_not_lost_in_rounding() -> None:
    # Orthogonal to the reference by construction: (4, -3) . (3, 4) = 0; error 5e-9 / 5.
    reference = REFERENCE[:1]
    result = hidden_error(reference + 1e-9 * np.array([[4.0, -3.0]]), reference, ROWS[:1])
    assert result.relative_error.value == pytest.approx(1e-9, rel=1e-6, abs=0)
    assert result.residual_after_scale == pytest.approx(1e-9, rel=1e-6, abs=0)


def test_float16_does_not_overflow() -> None:
    # The difference is 300, and 300^2 is beyond float16.
    half = np.full((1, 4), 300, dtype=np.float16)
    assert hidden_error(2 * half, half, ROWS[:1]).relative_error.value == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_positions_that_are_not_finite_are_dropped(bad: float) -> None:
    # Only position 0 remains: (3, 0) against (3, 4).
    result = hidden_error(np.array([[6.0, 4.0], [0.0, bad]]), REFERENCE, ROWS)
    assert result.relative_error.value == pytest.approx(3 / 5)
    assert (result.relative_error.n, result.relative_error.n_dropped) == (1, 1)
    assert np.isnan(result.per_position_error[1])
    assert result.norm_ratio == pytest.approx(sqrt(52 / 25))


def _scalars(result: HiddenError) -> list[float]:
    return [
        result.relative_error.value,
        result.cosine,
        result.norm_ratio,
        result.best_fit_scale,
        result.residual_after_scale,
    ]


def test_empty_is_nan_with_n_zero() -> None:
    result = hidden_error(REFERENCE[:0], REFERENCE[:0], ROWS[:0])
    assert np.isnan(_scalars(result)).all()
    assert result.relative_error.n == 0
    assert result.per_position_error.shape == (0,)


def test_a_reference_of_zeros_is_no_scale() -> None:
    result = hidden_error(REFERENCE, np.zeros_like(REFERENCE), ROWS)
    assert np.isnan(result.per_position_error).all()
    assert np.isnan(_scalars(result)[1:]).all()
    assert result.relative_error.value == np.inf


def test_shapes_must_pair_up() -> None:
    with pytest.raises(ValueError, match=r"hidden is \[2, 1\], reference is \[2, 2\]"):
        hidden_error(REFERENCE[:, :1], REFERENCE, ROWS)
    with pytest.raises(ValueError, match="row_ids has 1"):
        hidden_error(REFERENCE, REFERENCE, ROWS[:1])
