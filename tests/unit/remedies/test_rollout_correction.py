"""Weights of rollout correction against numbers worked out by hand."""

import math

import pytest
import torch

from mismatch_lab.remedies.rollout_correction import summary, weights
from mismatch_lab.trainer.config import Correction

# Ratios by token: row 1: 4, 1/2, (not sampled); row 2: 1, 3, 1/3.
RATIOS = torch.tensor([[4.0, 0.5, 100.0], [1.0, 3.0, 1 / 3]])
MASK = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
INFER = torch.full((2, 3), -1.0)
TRAIN = INFER + RATIOS.log()


def found(**how: object) -> list[list[float]]:
    result = weights(TRAIN, INFER, MASK, Correction.model_validate(how))
    return [[round(x, 5) for x in row] for row in result.tolist()]


def test_token_truncation() -> None:
    assert found(kind="truncate", high=2.0) == [[2.0, 0.5, 0.0], [1.0, 2.0, 0.33333]]


def test_sequence_truncation() -> None:
    # Row 1: 4 * 1/2 = 2, cut to 1.5. Row 2: 1 * 3 * 1/3 = 1.
    expected = [[1.5, 1.5, 0.0], [1.0, 1.0, 1.0]]
    assert found(kind="truncate", level="sequence", high=1.5) == expected


def test_token_mask_keeps_the_weight_of_what_is_inside() -> None:
    expected = [[0.0, 0.5, 0.0], [1.0, 3.0, 0.0]]
    assert found(kind="mask", low=0.5, high=3.5) == expected


def test_sequence_mask() -> None:
    # 2 is outside [0.5, 1.5], 1 inside.
    expected = [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    assert found(kind="mask", level="sequence", low=0.5, high=1.5) == expected


def test_icepop_has_its_published_bounds_and_is_by_token() -> None:
    # [0.5, 5]: 1/3 is out; the bounds and level of the configuration are not asked.
    expected = [[4.0, 0.5, 0.0], [1.0, 3.0, 0.0]]
    assert found(kind="icepop", level="sequence", low=0.99, high=1.01) == expected


def test_geometric_mean_decides_for_the_whole_sequence() -> None:
    # Row 1: sqrt(2) = 1.414 is out of [0.9, 1.1]; row 2: 1 is in, and is not reweighed.
    expected = [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    assert found(kind="geometric", low=0.9, high=1.1) == expected


def test_no_gradient_and_no_overflow() -> None:
    train = torch.full((1, 1), 500.0, requires_grad=True)
    result = weights(train, torch.zeros(1, 1), torch.ones(1, 1), Correction(high=1e12))
    assert not result.requires_grad
    assert result.item() == pytest.approx(math.exp(20.0))


def test_summary_counts_sampled_tokens_only() -> None:
    result = weights(TRAIN, INFER, MASK, Correction(kind="mask", low=0.5, high=3.5))
    # Kept: 0.5, 1, 3 of five tokens.
    assert summary(result, MASK) == pytest.approx(
        {"correction/weight_mean": 4.5 / 5, "correction/dropped_share": 2 / 5}
    )
