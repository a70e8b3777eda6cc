import math

import pytest

torch = pytest.importorskip("torch")

from mismatch_lab.mini.losses import balance_loss, weighted_cross_entropy  # noqa: E402


def test_cross_entropy_is_the_mean_by_weight_without_the_first_token() -> None:
    # Two words. Position 0 predicts token 1 = "1" with probability 3/4, position 1 predicts
    # token 2 = "0" with probability 1/2; the last position predicts nothing.
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, 0.0], [9.0, -9.0]]])
    token_ids = torch.tensor([[0, 1, 0]])
    weights = torch.tensor([[5.0, 1.0, 3.0]])
    # (1 * ln(4/3) + 3 * ln 2) / 4 = (0.287682 + 2.079442) / 4 = 0.591781
    assert weighted_cross_entropy(logits, token_ids, weights).item() == pytest.approx(0.591781)


def test_even_use_of_experts_costs_top_k() -> None:
    # Four tokens choose experts {0,1}, {1,2}, {2,3}, {3,0}: each has half of the tokens, and by
    # symmetry a mean probability of 1/4. 4 * (4 * 1/2 * 1/4) = 2 = top_k.
    logits = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]])
    assert balance_loss([logits], torch.ones(2, 2), 2).item() == pytest.approx(2.0)


def test_one_dead_layer_is_not_made_up_for_by_another() -> None:
    # All tokens choose experts 0 and 1 with probability 1/2 each: 4 * (1 * 1/2 + 1 * 1/2) = 4;
    # the mirrored layer costs 4 as well, though together they use every expert.
    dead = torch.tensor([[30.0, 30, 0, 0]] * 4)
    layers = [dead, dead.flip(1)]
    assert balance_loss(layers, torch.ones(2, 2), 2).item() == pytest.approx(4.0)


def test_padding_does_not_count_for_the_balance() -> None:
    logits = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1], [30, 30, 0, 0], [30, 30, 0, 0]])
    # The two real tokens use {0,1} and {2,3}: even, so top_k = 2.
    mask = torch.tensor([[1, 1], [0, 0]])
    assert balance_loss([logits], mask, 2).item() == pytest.approx(2.0)
