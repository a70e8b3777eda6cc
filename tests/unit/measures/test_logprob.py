"""Top-1 agreement at probe positions. The measures on sampled tokens are in test_edge."""

import numpy as np
import pytest

from mismatch_lab.measures.logprob import top1_agreement

INFER = np.array([[-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0], [-3.0, -2.0, -1.0]])
TRAIN = np.array([[-0.5, -2.0, -3.0], [-2.0, -1.0, -3.0], [-9.0, -np.inf, -8.0]])
ROWS = np.array([0, 0, 1])


def test_share_of_positions_with_the_same_first_token() -> None:
    # First tokens: infer 0 0 2, train 0 1 2; -inf is an ordinary value. Two of three agree.
    estimate = top1_agreement(INFER, TRAIN, ROWS)
    assert estimate.value == pytest.approx(2 / 3)
    assert (estimate.n, estimate.n_dropped) == (3, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_position_that_is_not_finite_is_dropped(bad: float) -> None:
    broken = TRAIN.copy()
    broken[1, 2] = bad
    # On either side: positions 0 and 2 remain, and agree.
    for estimate in (top1_agreement(INFER, broken, ROWS), top1_agreement(broken, INFER, ROWS)):
        assert (estimate.value, estimate.n, estimate.n_dropped) == (1.0, 2, 1)


def test_a_position_without_any_distribution_does_not_agree_by_default() -> None:
    nothing = np.full((1, 3), -np.inf)
    estimate = top1_agreement(nothing, nothing, np.array([0]))
    assert np.isnan(estimate.value)
    assert (estimate.n, estimate.n_dropped) == (0, 1)


def test_empty_is_nan_with_n_zero() -> None:
    estimate = top1_agreement(INFER[:0], TRAIN[:0], ROWS[:0])
    assert np.isnan(estimate.value)
    assert estimate.n == 0


def test_shapes_must_pair_up() -> None:
    with pytest.raises(ValueError, match=r"probe_logp_train is \[3, 2\]"):
        top1_agreement(INFER, TRAIN[:, :2], ROWS)
    with pytest.raises(ValueError, match="two axes"):
        top1_agreement(INFER[0], TRAIN[0], ROWS)
