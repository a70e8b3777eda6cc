"""Routing agreement on three tokens, two layers, two experts each, worked out by hand.

token (row)   layer 0 infer/train    layer 1 infer/train
0 (0)         1 2 / 1 2  same        3 4 / 4 3  same set, other order
1 (0)         1 2 / 1 5  flipped     3 4 / 3 4  same
2 (1)         1 2 / 6 7  flipped     not recorded by train
"""

import numpy as np
import pytest

from mismatch_lab.measures.routing import delta_by_flip, routing_agreement

INFER = np.array([[[1, 2], [3, 4]], [[1, 2], [3, 4]], [[1, 2], [3, 4]]], dtype=np.int16)
TRAIN = np.array([[[1, 2], [4, 3]], [[1, 5], [3, 4]], [[6, 7], [3, -1]]], dtype=np.int16)
ROWS = np.array([0, 0, 1])


def test_top1_agreement_by_hand() -> None:
    result = routing_agreement(INFER, TRAIN, ROWS)
    # Layer 0: yes yes no; layer 1: no yes, third not recorded. 3 of 5.
    assert [e.value for e in result.top1_agreement_per_layer] == pytest.approx([2 / 3, 1 / 2])
    assert result.top1_agreement.value == pytest.approx(3 / 5)
    assert (result.top1_agreement.n, result.top1_agreement.n_dropped) == (5, 1)
    assert [e.n_dropped for e in result.top1_agreement_per_layer] == [0, 1]


def test_set_overlap_by_hand() -> None:
    result = routing_agreement(INFER, TRAIN, ROWS)
    # Layer 0: 1, 1/2, 0; layer 1: 1, 1. Overall 3.5 / 5.
    assert [e.value for e in result.set_overlap_per_layer] == pytest.approx([0.5, 1.0])
    assert result.set_overlap.value == pytest.approx(0.7)


def test_order_within_the_set_is_no_flip() -> None:
    result = routing_agreement(INFER, TRAIN, ROWS)
    assert result.flipped.tolist() == [False, True, True]
    assert result.flipped_token_share.value == pytest.approx(2 / 3)
    assert result.flipped_token_share.n == 3


def test_a_token_without_any_recording_is_neither_flipped_nor_counted() -> None:
    train = TRAIN.copy()
    train[1] = -1
    result = routing_agreement(INFER, train, ROWS)
    assert result.recorded.tolist() == [True, False, True]
    assert result.flipped.tolist() == [False, False, True]
    assert result.flipped_token_share.value == pytest.approx(1 / 2)
    assert result.flipped_token_share.n_dropped == 1


def test_delta_of_flipped_and_unflipped_tokens() -> None:
    result = routing_agreement(INFER, TRAIN, ROWS)
    split = delta_by_flip(np.array([0.5, -1.0, -2.0]), result.flipped, result.recorded, ROWS)
    # Flipped: (1 + 2) / 2; unflipped: 0.5, from a single row, so without interval.
    assert split.flipped_abs_delta_mean.value == 1.5
    assert split.unflipped_abs_delta_mean.value == 0.5
    assert np.isnan(split.unflipped_abs_delta_mean.ci95_low)


def test_nothing_recorded_is_nan_with_n_zero() -> None:
    result = routing_agreement(INFER, np.full_like(TRAIN, -1), ROWS)
    for estimate in (result.top1_agreement, result.set_overlap, result.flipped_token_share):
        assert np.isnan(estimate.value)
        assert estimate.n == 0
    split = delta_by_flip(np.ones(3), result.flipped, result.recorded, ROWS)
    assert np.isnan(split.unflipped_abs_delta_mean.value)
    empty = routing_agreement(INFER[:0], TRAIN[:0], ROWS[:0])
    assert np.isnan(empty.set_overlap.value)
    assert len(empty.set_overlap_per_layer) == 2


def test_shapes_must_pair_up() -> None:
    with pytest.raises(ValueError, match=r"router_topk_train is \[3, 1, 1\]"):
        routing_agreement(INFER, TRAIN[:, :1], ROWS)
    with pytest.raises(ValueError, match="T, L, K"):
        routing_agreement(INFER[:, 0], TRAIN[:, 0], ROWS)
    with pytest.raises(ValueError, match="row_ids has 2"):
        routing_agreement(INFER, TRAIN, ROWS[:2])


def test_sides_that_choose_different_numbers_of_experts_can_be_compared() -> None:
    two, three = np.array([[[0, 1]]]), np.array([[[1, 0, 2]]])
    found = routing_agreement(two, three, np.zeros(1, np.int64))
    assert found.set_overlap.value == pytest.approx(2 / 3)
    assert found.top1_agreement.value == 0.0
    assert found.flipped.all()
