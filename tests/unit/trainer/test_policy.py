"""The policy against transformers and against itself cut into micro-batches."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from mismatch_lab.checkpoints.config import EMBEDDED, resolve_model_path
from mismatch_lab.trainer import ranks
from mismatch_lab.trainer.batch import Batch
from mismatch_lab.trainer.config import Optim, TrainConfig
from mismatch_lab.trainer.grpo import loss_weights
from mismatch_lab.trainer.measure import own_routing
from mismatch_lab.trainer.objective import Objective
from mismatch_lab.trainer.policy import FP16_LOSS_SCALE, Policy

ROWS, WIDTH = 5, 24


@pytest.fixture(autouse=True)
def process_group() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    ranks.leave()


def some_batch(policy: Policy) -> Batch:
    """Rows of 16 to 24 tokens; the engine's log-probs are a little off the policy's."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([16, 24, 20, 18, 24])
    ids = torch.randint(5, 500, (ROWS, WIDTH), generator=generator)
    places = torch.arange(WIDTH)[None]
    mask = ((places >= 8) & (places < lengths[:, None])).float()
    advantages = torch.tensor([1.0, -0.5, 0.0, 2.0, -1.0])
    bare = Batch(ids, lengths, mask, torch.zeros(ROWS, WIDTH), advantages)
    noise = 0.05 * torch.randn(ROWS, WIDTH, generator=generator)
    logp_infer = (policy.score(bare).logp + noise) * mask
    return Batch(ids, lengths, mask, logp_infer, advantages)


def gradients(micro_batch: int) -> dict[str, Any]:
    """Of the objective over a whole batch, cut as asked."""
    policy = Policy(TrainConfig(optim=Optim(micro_batch=micro_batch)), resolve_model_path(EMBEDDED))
    batch = some_batch(policy)
    objective = Objective.of(policy.config, batch, policy.score(batch).logp, None)
    rows = objective.rows_that_count(batch)
    assert rows == [0, 1, 3, 4]  # the third has no advantage
    for chosen, micro in policy.gradient_batches(batch, rows):
        share, _ = objective.loss(policy.forward(micro).logp, micro, chosen, 0)
        policy.backward(share)
    return {
        name: parameter.grad.full_tensor()  # type: ignore[union-attr]
        for name, parameter in policy.model.named_parameters()
        if parameter.grad is not None
    }


def test_log_probs_and_entropy_are_those_of_transformers() -> None:
    policy = Policy(TrainConfig(), resolve_model_path(EMBEDDED))
    batch = some_batch(policy)
    found = policy.score(batch)
    plain = AutoModelForCausalLM.from_pretrained(
        resolve_model_path(EMBEDDED), dtype=torch.float32
    ).eval()
    with torch.no_grad():
        logits = plain(batch.ids, attention_mask=batch.attention_mask()).logits[:, :-1]
    log_probs = torch.log_softmax(logits, -1)
    logp = log_probs.gather(-1, batch.ids[:, 1:, None]).squeeze(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    inside = batch.mask[:, 1:] > 0
    assert torch.allclose(found.logp[:, 1:][inside], logp[inside], atol=1e-5)
    assert torch.allclose(found.entropy[:, 1:][inside], entropy[inside], atol=1e-5)


def test_gradients_do_not_depend_on_the_micro_batches() -> None:
    whole, cut = gradients(ROWS), gradients(2)
    assert whole.keys() == cut.keys()
    assert any("sinks" in name for name in whole)
    for name, gradient in whole.items():
        scale = gradient.norm()
        assert (gradient - cut[name]).norm() <= 1e-5 * scale + 1e-12, name


def test_a_cut_support_renormalises() -> None:
    policy = Policy(TrainConfig(), resolve_model_path(EMBEDDED))
    batch = some_batch(policy).take([1])
    vocabulary = policy.model.vocabulary
    alone = torch.zeros(1, WIDTH, vocabulary, dtype=torch.bool)  # the sampled token is always in
    only = Batch(**{**vars(batch), "support": alone})
    assert policy.score(only).logp.abs().max() < 1e-6  # log 1
    pair = alone.clone()
    pair[0, 12, 7] = True
    two = Batch(**{**vars(batch), "support": pair})
    with torch.no_grad():
        logits = policy.bare(batch.ids).logits[0, 11]
    chosen = int(batch.ids[0, 12])
    expected = torch.log_softmax(logits[[chosen, 7]], -1)[0]
    assert torch.allclose(policy.score(two).logp[0, 12], expected, atol=1e-5)


def test_loss_of_the_shares_is_the_loss_of_the_whole() -> None:
    # On-policy every ratio is 1, so the loss is minus the weighted mean of the advantages.
    policy = Policy(TrainConfig(), resolve_model_path(EMBEDDED))
    batch = some_batch(policy)
    objective = Objective.of(policy.config, batch, policy.score(batch).logp, None)
    total = 0.0
    for chosen, micro in policy.gradient_batches(batch, [0, 1, 3, 4]):
        share, clipped = objective.loss(policy.forward(micro).logp, micro, chosen, 0)
        total += float(share.detach())
        assert float(clipped) == 0.0
    expected = -(loss_weights(batch.mask, "token") * batch.advantages[:, None]).sum()
    assert total == pytest.approx(float(expected), abs=1e-4)


def test_replayed_experts_are_used_and_the_routers_are_put_back() -> None:
    policy = Policy(TrainConfig(fixes=("routing-replay",)), resolve_model_path(EMBEDDED))
    batch = some_batch(policy)
    plain = policy.score(batch).logp
    # Experts 6 and 7 for every token but the first row's, which the routers choose themselves.
    choices = torch.tensor([6, 7]).expand(ROWS, WIDTH, 4, 2).clone()
    choices[0] = -1
    routed = Batch(**{**vars(batch), "routing": choices})
    replayed = policy.score(routed).logp
    assert torch.allclose(replayed[0], plain[0], atol=1e-6)
    assert (replayed - plain)[1:].abs().max() > 0.1
    agreement = own_routing(policy, routed, rows=ROWS)
    assert agreement["routing/n"] == 4 * 4 * WIDTH  # four rows, four layers
    assert agreement["routing/set_agreement"] < 0.5
    assert torch.equal(policy.score(batch).logp, plain)  # a batch without choices


def small_update(policy: Policy, batch: Batch) -> float:
    """One step on a batch; the gradient's norm."""
    objective = Objective.of(policy.config, batch, policy.score(batch).logp, None)
    for chosen, micro in policy.gradient_batches(batch, [0, 1, 3, 4]):
        share, _ = objective.loss(policy.forward(micro).logp, micro, chosen, 0)
        policy.backward(share)
    return policy.step(100)


def weights_of(policy: Policy) -> torch.Tensor:
    parts = [
        parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        for parameter in policy.model.parameters()
    ]
    return torch.cat([part.detach().flatten() for part in parts])


def test_the_scale_of_a_float16_loss_backs_off_and_recovers() -> None:
    policy = Policy(TrainConfig(dtype="float16"), resolve_model_path(EMBEDDED))
    batch = some_batch(policy)
    wanted = small_update(policy, batch)
    assert policy.scaler.get_scale() == FP16_LOSS_SCALE
    assert 0.01 < wanted < 100
    # A scale at which gradients leave float16 (65,504), and growth after two good steps.
    policy.scaler.load_state_dict(
        policy.scaler.state_dict() | {"scale": 2.0**40, "growth_interval": 2, "_growth_tracker": 0}
    )
    scales, changed = [2.0**40], []
    for _ in range(60):
        before = weights_of(policy)
        norm = small_update(policy, batch)
        scales.append(policy.scaler.get_scale())
        changed.append(not torch.equal(weights_of(policy), before))
        assert changed[-1] == math.isfinite(norm)
        if changed[-2:] == [True, True]:
            break
    n_skipped = changed.index(True)
    assert n_skipped > 5
    # Halved at each step that was skipped; kept by the first good one, doubled by the second.
    assert scales[: n_skipped + 1] == [2.0 ** (40 - i) for i in range(n_skipped + 1)]
    assert scales[n_skipped + 1 :] == [scales[n_skipped], 2 * scales[n_skipped]]


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    policy = Policy(TrainConfig(), resolve_model_path(EMBEDDED))
    batch = some_batch(policy)
    before = weights_of(policy)
    broken = Batch(**{**vars(batch), "advantages": batch.advantages * math.inf})
    assert not math.isfinite(small_update(policy, broken))
    assert torch.equal(weights_of(policy), before)
    assert math.isfinite(small_update(policy, batch))
    assert not torch.equal(weights_of(policy), before)
