"""Weights of rollout correction against numbers worked out by hand."""

import math

import pytest
import torch

from mismatch_lab.remedies.rollout_correction import LOG_RATIO_MAX_NATS, correct
from mismatch_lab.trainer.config import Correction

# Ratios by token: row 1: 4, 1/2, (not sampled); row 2: 1, 3, 1/3.
RATIOS = torch.tensor([[4.0, 0.5, 100.0], [1.0, 3.0, 1 / 3]])
MASK = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
INFER = torch.full((2, 3), -1.0)
TRAIN = INFER + RATIOS.log()

Rows = list[list[float]]
ALL = MASK.tolist()


def found(**how: object) -> tuple[Rows, Rows]:
    """Weights, and the tokens over which the loss is a mean."""
    result = correct(TRAIN, INFER, MASK, Correction.model_validate(how))
    return [[round(x, 5) for x in row] for row in result.weights.tolist()], result.kept.tolist()


def test_token_truncation() -> None:
    expected = [[2.0, 0.5, 0.0], [1.0, 2.0, 0.33333]]
    assert found(kind="truncate", high=2.0) == (expected, ALL)


def test_sequence_truncation() -> None:
    # Row 1: 4 * 1/2 = 2, cut to 1.5. Row 2: 1 * 3 * 1/3 = 1.
    expected = [[1.5, 1.5, 0.0], [1.0, 1.0, 1.0]]
    assert found(kind="truncate", level="sequence", high=1.5) == (expected, ALL)


def test_token_mask_keeps_the_weight_of_what_is_inside_and_rejects_the_rest() -> None:
    expected = [[0.0, 0.5, 0.0], [1.0, 3.0, 0.0]]
    kept = [[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    assert found(kind="mask", low=0.5, high=3.5) == (expected, kept)


def test_sequence_mask() -> None:
    # 2 is outside [0.5, 1.5], 1 inside.
    expected = [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    assert found(kind="mask", level="sequence", low=0.5, high=1.5) == (expected, expected)


def test_icepop_rejects_nothing_from_the_mean() -> None:
    # Published bounds [0.5, 5]: 1/3 has no weight.
    assert found(kind="icepop") == ([[4.0, 0.5, 0.0], [1.0, 3.0, 0.0]], ALL)
    # Others where they are given.
    assert found(kind="icepop", high=3.5) == ([[0.0, 0.5, 0.0], [1.0, 3.0, 0.0]], ALL)


def test_geometric_mean_decides_for_the_whole_sequence() -> None:
    # Row 1: sqrt(2) = 1.414 is out of [0.9, 1.1]; row 2: 1 is in, and is not reweighed.
    expected = [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    assert found(kind="geometric", low=0.9, high=1.1) == (expected, expected)


@pytest.mark.parametrize(("mean_delta", "kept"), [(0.0008, 1.0), (0.002, 0.0), (-0.002, 0.0)])
def test_geometric_bounds_are_narrow_unless_others_are_given(
    mean_delta: float, kept: float
) -> None:
    # Row of two tokens whose deltas are the mean plus and minus 0.1: their own ratios say nothing.
    # exp(0.0008) = 1.0008 lies in [0.999, 1.001]; exp(0.002) = 1.002, exp(-0.002) = 0.998 do not.
    delta = torch.tensor([[mean_delta + 0.1, mean_delta - 0.1]])
    result = correct(delta, torch.zeros(1, 2), torch.ones(1, 2), Correction(kind="geometric"))
    assert result.kept.tolist() == [[kept, kept]]


def test_what_is_outside_the_mask_has_no_part_in_its_sequence() -> None:
    # The second token has no log-prob of the engine: the sequence's ratio is the first's, 1.5.
    infer = torch.tensor([[-1.0, math.nan]])
    train = torch.tensor([[-1.0 + math.log(1.5), -1.0]])
    how = Correction(kind="truncate", level="sequence")
    result = correct(train, infer, torch.tensor([[1.0, 0.0]]), how)
    assert result.weights[0].tolist() == pytest.approx([1.5, 0.0])


def test_no_gradient_and_no_overflow() -> None:
    train = torch.full((1, 1), 500.0, requires_grad=True)
    result = correct(train, torch.zeros(1, 1), torch.ones(1, 1), Correction(high=1e12)).weights
    assert not result.requires_grad
    assert result.item() == pytest.approx(math.exp(LOG_RATIO_MAX_NATS))


def test_summary_counts_sampled_tokens_only() -> None:
    result = correct(TRAIN, INFER, MASK, Correction(kind="mask", low=0.5, high=3.5))
    # Kept: 0.5, 1, 3 of five tokens.
    assert result.summary(MASK) == pytest.approx(
        {"correction/weight_mean": 4.5 / 5, "correction/dropped_share": 2 / 5}
    )
