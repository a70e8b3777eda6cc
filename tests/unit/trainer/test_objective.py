"""The loss's gradient with respect to each token's log-prob, against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mismatch_lab.trainer.batch import Batch
from mismatch_lab.trainer.config import read_config
from mismatch_lab.trainer.objective import Objective

NAN, INF = math.nan, math.inf
Table = list[list[float]]


def a_batch(infer: Table, advantages: list[float], truncated: list[bool] | None = None) -> Batch:
    """Every token is sampled."""
    logp_infer = torch.tensor(infer)
    n = logp_infer.shape[1]
    cut = None if truncated is None else torch.tensor(truncated)
    return Batch(
        torch.zeros(logp_infer.shape, dtype=torch.long),
        torch.full((len(infer),), n),
        torch.ones(logp_infer.shape),
        logp_infer,
        torch.tensor(advantages),
        truncated=cut,
    )


def gradient(
    batch: Batch,
    now: Table,
    scored: Table | None = None,
    start: Table | None = None,
    update: int = 0,
    **settings: Any,
) -> tuple[float, Table]:
    """(loss, its gradient); `scored` is `now` unless given. Names of settings have __ for a dot."""
    config = read_config(None, {name.replace("__", "."): v for name, v in settings.items()})
    logp = torch.tensor(now, requires_grad=True)
    reference = None if start is None else torch.tensor(start)
    objective = Objective.of(config, batch, torch.tensor(scored or now), reference)
    rows = list(range(batch.n_rows))
    loss, _ = objective.loss(logp, batch.take(rows), rows, update)
    torch.autograd.backward(loss)
    assert logp.grad is not None
    return float(loss.detach()), logp.grad.tolist()


def flat(table: Table) -> list[float]:
    return [value for row in table for value in row]


# One token, which the trainer finds exp(0.1) = 1.10517 times as likely as the engine did.
ONE = ([[-1.1]], [1.0])


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({}, 1.0),  # the engine is taken for the trainer
        ({"loss__old": "infer"}, 1.10517),
        ({"fixes": ["rollout-correction"]}, 1.10517),
        ({"fixes": ["rollout-correction", "on-policy-ratio"]}, 1.10517),
    ],
)
def test_a_mismatch_is_weighed_once(settings: dict[str, Any], factor: float) -> None:
    _, found = gradient(a_batch(*ONE), [[-1.0]], **settings)
    assert flat(found) == pytest.approx([-factor], abs=1e-5)


TWO_ROWS = ([[-1.0, -2.0], [-4.0, -5.0]], [1.0, 1.0])
# The first row's tokens are as likely in the trainer, the second's e^2 = 7.389 times as likely.
NOW = [[-1.0, -2.0], [-2.0, -3.0]]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Rejected tokens leave the mean: two are left, each with half of the weight.
        ("mask", [-0.5, -0.5, 0.0, 0.0]),
        ("geometric", [-0.5, -0.5, 0.0, 0.0]),
        # IcePop's [0.5, 5] leaves them in it: a quarter each.
        ("icepop", [-0.25, -0.25, 0.0, 0.0]),
        # Weights of 1 and 2, over four tokens.
        ("truncate", [-0.25, -0.25, -0.5, -0.5]),
    ],
)
@pytest.mark.parametrize("mean", ["token", "sequence"])
def test_what_is_rejected_leaves_the_denominator(
    kind: str, expected: list[float], mean: str
) -> None:
    # Sequences of two tokens: the mean over sequences is the mean over tokens.
    batch = a_batch(*TWO_ROWS)
    settings = {"fixes": ["rollout-correction"], "correction__kind": kind, "loss__mean": mean}
    _, found = gradient(batch, NOW, **settings)
    assert flat(found) == pytest.approx(expected)


def test_where_all_is_rejected_there_is_nothing_to_learn_from() -> None:
    settings = {"fixes": ["rollout-correction"], "correction__kind": "geometric"}
    batch = a_batch([[-4.0, -5.0], [-4.0, -5.0]], [1.0, -1.0])
    loss, found = gradient(batch, [[-2.0, -3.0]] * 2, **settings)
    assert (loss, flat(found)) == (0.0, [0.0] * 4)
    config = read_config(None, {name.replace("__", "."): v for name, v in settings.items()})
    scored = torch.tensor([[-2.0, -3.0]] * 2)
    assert Objective.of(config, batch, scored, None).rows_that_count(batch) == []


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("sentinel", [-100.0, -9999.0])
def test_a_ratio_that_would_overflow_has_no_gradient(advantage: float, sentinel: float) -> None:
    # exp(99) is no float32. The other token keeps its half of the mean: -A / 2.
    batch = a_batch([[sentinel, -1.0]], [advantage])
    loss, found = gradient(batch, [[-1.0, -1.0]], loss__old="infer")
    assert math.isfinite(loss)
    assert flat(found) == pytest.approx([0.0, -advantage / 2])


@pytest.mark.parametrize("bad", [NAN, -INF, INF])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss__old": "infer"},
        {"fixes": ["rollout-correction"], "correction__level": "sequence"},
        {"loss__old": "infer", "loss__kl": "k2", "loss__kl_weight": 1.0},
    ],
)
def test_a_token_without_a_log_prob_of_the_engine_is_in_no_mean(
    bad: float, settings: dict[str, Any]
) -> None:
    # Of two tokens one is left, with all of the weight; at the start model the KL pulls at nothing.
    batch = a_batch([[bad, -1.0]], [2.0])
    loss, found = gradient(batch, [[-1.0, -1.0]], start=[[-1.0, -1.0]], **settings)
    assert loss == pytest.approx(-2.0)
    assert flat(found) == pytest.approx([0.0, -2.0])


def test_truncated_rows_are_masked_where_that_is_asked_for() -> None:
    batch = a_batch([[-1.0, -1.0], [-1.0, -1.0]], [1.0, -1.0], truncated=[False, True])
    now = [[-1.0, -1.0], [-1.0, -1.0]]
    assert flat(gradient(batch, now)[1]) == pytest.approx([-0.25, -0.25, 0.25, 0.25])
    masked = gradient(batch, now, loss__truncated="mask")[1]
    assert flat(masked) == pytest.approx([-0.5, -0.5, 0.0, 0.0])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss__old": "infer"},
        {"fixes": ["rollout-correction"]},
        {"fixes": ["on-policy-ratio"]},
        {"loss__kl": "k2"},
    ],
)
def test_a_rank_without_rows_adds_exactly_nothing(settings: dict[str, Any]) -> None:
    # It runs row 0, whose tokens may be as unlikely as they like: exp(100) is no float32.
    batch = a_batch([[-100.0, -2.0]], [-1.0])
    given = {"loss__kl_weight": 0.1, **settings}
    config = read_config(None, {name.replace("__", "."): v for name, v in given.items()})
    logp = torch.tensor([[-100.0, -2.0]], requires_grad=True)
    objective = Objective.of(config, batch, logp.detach(), torch.tensor([[-1.0, -1.0]]))
    loss, clipped = objective.loss(logp, batch.take([0]), [], 0)
    torch.autograd.backward(loss)
    assert logp.grad is not None
    assert (float(loss.detach()), float(clipped), flat(logp.grad.tolist())) == (0.0, 0.0, [0.0] * 2)


# Two tokens: the policy finds both as likely, the start model 4/5 and 1/5, the engine drew 1 and 3.
POLICY, START, ENGINE = [0.5, 0.5], [0.8, 0.2], [0.25, 0.75]
DRAWN = [0, 1, 1, 1]
# With policy softmax(z): d KL(policy || start) / dz_0 = p_0 (log(p_0/s_0) - KL)
#   = 1/2 (log 5/8 - (log 5/8 + log 5/2) / 2) = log(1/4) / 4.
TRUE = math.log(1 / 4) / 4  # -0.3466


def kl_gradient(drawn: list[int], engine: list[float], update: int = 0, **settings: Any) -> float:
    """d loss / dz_0 of the penalty alone: rows of one token, advantages 0, weight 1."""
    logits = torch.tensor(POLICY).log().requires_grad_(True)

    def of(distribution: list[float] | Tensor) -> Tensor:
        return torch.as_tensor(distribution)[drawn][:, None]

    batch = a_batch(of(engine).log().tolist(), [0.0] * len(drawn))
    given = {"loss__kl_weight": 1.0, **settings}
    config = read_config(None, {name.replace("__", "."): v for name, v in given.items()})
    scored = of(POLICY if update == 0 else engine).log()
    objective = Objective.of(config, batch, scored, of(START).log())
    rows = objective.rows_that_count(batch)
    assert rows == list(range(len(drawn)))
    logp = of(torch.log_softmax(logits, 0))
    loss, _ = objective.loss(logp, batch.take(rows), rows, update)
    torch.autograd.backward(loss)
    assert logits.grad is not None
    return float(logits.grad[0])


def test_k3_as_published_has_the_gradient_of_the_other_direction() -> None:
    # Each token drawn as often as the policy would: d KL(start || policy) / dz_0 = p_0 - s_0.
    assert kl_gradient([0, 1], POLICY) == pytest.approx(0.5 - 0.8)
    assert kl_gradient([0, 1], POLICY, loss__kl="k2") == pytest.approx(TRUE)


@pytest.mark.parametrize(
    "settings",
    [
        {"loss__old": "infer"},
        {"fixes": ["rollout-correction"], "correction__high": 10.0},
    ],
)
def test_k2_is_that_of_the_policy_whoever_drew_the_tokens(settings: dict[str, Any]) -> None:
    assert kl_gradient(DRAWN, ENGINE, loss__kl="k2", **settings) == pytest.approx(TRUE)


def test_k2_takes_the_engine_for_the_trainer_where_the_loss_does() -> None:
    # 1/4 * log(5/8) * 1/2 - 3/4 * log(5/2) * 1/2.
    expected = math.log(5 / 8) / 8 - 3 * math.log(5 / 2) / 8
    assert kl_gradient(DRAWN, ENGINE, loss__kl="k2") == pytest.approx(expected)  # -0.4024


def test_k2_after_the_first_update_is_weighed_by_what_changed() -> None:
    # The engine was the trainer as it scored, (1/4, 3/4); the policy has moved to (1/2, 1/2) since.
    found = kl_gradient(DRAWN, ENGINE, update=1, loss__kl="k2", optim__updates=2)
    assert found == pytest.approx(TRUE)
