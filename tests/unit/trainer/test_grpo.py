"""GRPO's parts against numbers worked out by hand."""

import math

import pytest
import torch

from mismatch_lab.trainer.grpo import (
    clipped_policy_loss,
    group_advantages,
    k2_penalty,
    k3_penalty,
    loss_weights,
    masked_mean,
)


def test_advantages_of_two_groups_by_hand() -> None:
    # Group 1: mean 0.5, population deviation 0.5. Group 2: all alike, so nothing is better.
    rewards = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    found = group_advantages(rewards, 4, "mean-std")
    expected = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.0, 0.0, 0.0, 0.0])
    assert torch.allclose(found, expected, atol=1e-5)
    assert found[4:].tolist() == [0.0] * 4


def test_advantages_without_deviation() -> None:
    # Mean of 1, 0, 0, 0 is 0.25.
    found = group_advantages(torch.tensor([1.0, 0.0, 0.0, 0.0]), 4, "mean")
    assert found.tolist() == [0.75, -0.25, -0.25, -0.25]


@pytest.mark.parametrize(
    ("reward", "group"), [(0.6, 8), (2 / 3, 8), (1 / 3, 8), (0.8, 8), (0.8, 12)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_have_no_advantage(reward: float, group: int, dtype: torch.dtype) -> None:
    # In float32 the mean of these is off by an ulp, which is also their deviation.
    found = group_advantages(torch.full((group,), reward, dtype=dtype), group, "mean-std")
    assert found.tolist() == [0.0] * group


def test_rewards_that_rounding_alone_tells_apart_teach_nothing() -> None:
    # 0.1 + 0.2 is 0.3 and 5.6e-17: divided by a floor of 1e-6.
    found = group_advantages(torch.tensor([0.1 + 0.2, 0.3], dtype=torch.float64), 2, "mean-std")
    assert found.abs().max() < 1e-9
    assert found.dtype == torch.float32


def test_clip_takes_the_gradient_only_where_it_would_go_on() -> None:
    # Ratios 1.5 and 0.5 with bounds 0.8 and 1.2, advantage +1 above and -1 below:
    # +1: min(1.5, 1.2) = 1.2 clipped; min(0.5, 0.8) = 0.5 free.
    # -1: min(-1.5, -1.2) = -1.5 free; min(-0.5, -0.8) = -0.8 clipped.
    ratio = torch.tensor([[1.5, 0.5], [1.5, 0.5]])
    logp = ratio.log().requires_grad_(True)
    found = clipped_policy_loss(logp, torch.zeros(2, 2), torch.tensor([1.0, -1.0]), 0.2, 0.2)
    assert torch.allclose(found.loss, torch.tensor([[-1.2, -0.5], [1.5, 0.8]]))
    assert found.clipped.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    torch.autograd.backward(found.loss.sum())
    # d(-r A)/dlogp = -r A where free, 0 where clipped.
    assert logp.grad is not None
    assert torch.allclose(logp.grad, torch.tensor([[0.0, -0.5], [1.5, 0.0]]))


def test_clip_bounds_may_differ() -> None:
    # exp(log 1.25) = 1.25 is inside 1 + 0.28, outside 1 + 0.2.
    logp = torch.full((1, 1), math.log(1.25))
    wide = clipped_policy_loss(logp, torch.zeros(1, 1), torch.tensor([1.0]), 0.2, 0.28)
    narrow = clipped_policy_loss(logp, torch.zeros(1, 1), torch.tensor([1.0]), 0.2, 0.2)
    assert (wide.loss.item(), narrow.loss.item()) == pytest.approx((-1.25, -1.2))


def test_on_policy_gradient_is_minus_the_advantage() -> None:
    logp = torch.tensor([[-0.3, -2.0]], requires_grad=True)
    found = clipped_policy_loss(logp, logp.detach(), torch.tensor([0.7]), 0.2, 0.2)
    torch.autograd.backward(found.loss.sum())
    assert logp.grad is not None
    assert torch.allclose(logp.grad, torch.tensor([[-0.7, -0.7]]))


def test_k3_penalty_by_hand() -> None:
    # d = logp_ref - logp = log 2: 2 - 1 - log 2. d = 0: 0.
    found = k3_penalty(torch.tensor([-1.0, -1.0]), torch.tensor([-1.0 + math.log(2), -1.0]))
    assert found.tolist() == pytest.approx([1 - math.log(2), 0.0], abs=1e-6)


def test_k2_penalty_by_hand() -> None:
    # d = 2: 4 / 2.
    found = k2_penalty(torch.tensor([-3.0, -1.0]), torch.tensor([-1.0, -1.0]))
    assert found.tolist() == pytest.approx([2.0, 0.0])


def test_expected_gradients_of_the_penalties_on_three_tokens() -> None:
    # Each token's penalty counted as often as the policy draws it, against the KLs themselves.
    start = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    logits = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64, requires_grad=True)

    def slope(value: torch.Tensor) -> torch.Tensor:
        (found,) = torch.autograd.grad(value, logits)
        return found

    def logp() -> torch.Tensor:
        return torch.log_softmax(logits, 0)

    policy = logp().detach().exp()
    reverse = slope((logp().exp() * (logp() - start.log())).sum())
    forward = slope((start * (start.log() - logp())).sum())
    assert (reverse - forward).abs().max() > 0.02  # they are told apart here
    assert torch.allclose(slope((policy * k2_penalty(logp(), start.log())).sum()), reverse)
    assert torch.allclose(slope((policy * k3_penalty(logp(), start.log())).sum()), forward)


def test_penalties_of_a_token_that_cannot_be_are_finite() -> None:
    logp = torch.tensor([-200.0], requires_grad=True)
    torch.autograd.backward(k3_penalty(logp, torch.tensor([-1.0])).sum())
    assert logp.grad is not None
    assert torch.isfinite(logp.grad).all()


def test_loss_weights_leave_tool_tokens_out() -> None:
    # 3 tokens of the model in row 1 (the tool's stand between), 1 in row 2: 4 tokens, 2 rows.
    mask = torch.tensor([[0.0, 1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0, 0.0]])
    token = loss_weights(mask, "token")
    assert token.tolist() == [[0.0, 0.25, 0.0, 0.25, 0.25], [0.0, 0.25, 0.0, 0.0, 0.0]]
    sequence = loss_weights(mask, "sequence")
    expected = torch.tensor([[0, 1 / 6, 0, 1 / 6, 1 / 6], [0, 0.5, 0, 0, 0]])
    assert torch.allclose(sequence, expected)


def test_sequence_weights_pass_over_a_row_without_tokens() -> None:
    found = loss_weights(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), "sequence")
    assert found.tolist() == [[0.5, 0.5], [0.0, 0.0]]


def test_loss_weights_of_nothing_are_nothing() -> None:
    for kind in ("token", "sequence"):
        assert loss_weights(torch.zeros(2, 2), kind).tolist() == [[0.0] * 2] * 2  # type: ignore[arg-type]


def test_masked_mean_ignores_what_stands_outside() -> None:
    values = torch.tensor([[2.0, math.inf], [4.0, math.nan]])
    assert masked_mean(values, torch.tensor([[1.0, 0.0], [1.0, 0.0]])).item() == 3.0
    assert math.isnan(masked_mean(values, torch.zeros(2, 2)).item())
