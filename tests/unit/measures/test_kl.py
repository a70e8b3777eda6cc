"""Exact KL at probe positions. The estimators on sampled tokens are in test_edge."""

from math import log

import numpy as np
import pytest

from mismatch_lab.measures.kl import exact_kl_per_position, kl_infer_train_exact

INFER = np.log(np.array([[0.5, 0.5], [0.25, 0.75]]))
TRAIN = np.log(np.array([[0.25, 0.75], [0.25, 0.75]]))
ROWS = np.array([0, 1])


def test_exact_kl_by_hand() -> None:
    # Position 0: 0.5 ln(0.5/0.25) + 0.5 ln(0.5/0.75) = 0.5 ln(4/3). Position 1: the same, so 0.
    # The other direction would be 0.25 ln 0.5 + 0.75 ln 1.5 = 0.1308 and not 0.1438.
    np.testing.assert_allclose(
        exact_kl_per_position(INFER, TRAIN), [0.5 * log(4 / 3), 0.0], atol=1e-15
    )
    assert kl_infer_train_exact(INFER, TRAIN, ROWS).value == pytest.approx(0.25 * log(4 / 3))


def test_a_token_the_engine_rules_out_adds_nothing() -> None:
    # p = (1, 0): 1 ln(1/0.5) + 0. Also where the trainer rules it out as well.
    infer = np.array([[0.0, -np.inf], [0.0, -np.inf]])
    train = np.array([[log(0.5), log(0.5)], [log(0.5), -np.inf]])
    np.testing.assert_allclose(exact_kl_per_position(infer, train), [log(2), log(2)])


def test_a_token_only_the_trainer_rules_out_is_infinite_and_dropped() -> None:
    train = TRAIN.copy()
    train[1, 0] = -np.inf
    assert exact_kl_per_position(INFER, train)[1] == np.inf
    estimate = kl_infer_train_exact(INFER, train, ROWS)
    assert estimate.value == pytest.approx(0.5 * log(4 / 3))
    assert (estimate.n, estimate.n_dropped) == (1, 1)


@pytest.mark.parametrize(
    ("infer", "train"),
    [
        ([np.nan, 0.0], [0.0, -1.0]),
        ([-np.inf, 0.0], [np.nan, 0.0]),
        ([np.inf, 0.0], [0.0, 0.0]),
        ([-np.inf, -np.inf], [0.0, -np.inf]),
    ],
    ids=["nan infer", "nan train", "plus infinity", "no distribution"],
)
def test_unusable_positions_are_dropped(infer: list[float], train: list[float]) -> None:
    estimate = kl_infer_train_exact(np.array([infer]), np.array([train]), np.array([0]))
    assert np.isnan(estimate.value)
    assert (estimate.n, estimate.n_dropped) == (0, 1)


def test_many_positions_are_chunked_without_a_seam() -> None:
    # 3 positions of 2^21 tokens make two chunks; uniform against uniform with half of the
    # vocabulary at twice the odds: p = 1/V; q = 4/3V or 2/3V; KL = -(ln(4/3) + ln(2/3)) / 2.
    vocabulary = 1 << 21
    infer = np.full((3, vocabulary), -log(vocabulary), dtype=np.float32)
    train = infer.copy()
    train[:, ::2] += np.float32(log(4 / 3))
    train[:, 1::2] += np.float32(log(2 / 3))
    expected = -(log(4 / 3) + log(2 / 3)) / 2
    np.testing.assert_allclose(exact_kl_per_position(infer, train), expected, rtol=1e-4)


def test_shapes_are_named_when_they_differ() -> None:
    with pytest.raises(ValueError, match=r"probe_logp_infer is \[2, 2\], probe_logp_train is \[2"):
        kl_infer_train_exact(INFER, TRAIN[:, :1], ROWS)
    with pytest.raises(ValueError, match="row_ids has 1"):
        kl_infer_train_exact(INFER, TRAIN, ROWS[:1])


def test_empty_is_nan_with_n_zero() -> None:
    estimate = kl_infer_train_exact(INFER[:0], TRAIN[:0], ROWS[:0])
    assert np.isnan(estimate.value)
    assert estimate.n == 0
