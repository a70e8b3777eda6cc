"""Roll-outs by the real vLLM: transfers in place, and what its sampler and routers decided."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mismatch_lab.engines.checkpoint import EMBEDDED, locate
from mismatch_lab.trainer import ranks
from mismatch_lab.trainer.batch import Batch, stack
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.policy import Policy
from mismatch_lab.trainer.replay import RoutingWatch
from mismatch_lab.trainer.rollout import Draw, EngineSpec, Record
from mismatch_lab.trainer.rollout_vllm import VllmRollout
from mismatch_lab.trainer.sync import Sync
from mismatch_lab.trainer.tasks import load_task
from mismatch_lab.trainer.tasks.episodes import roll_out
from mismatch_lab.trainer.tasks.sources import Source
from mismatch_lab.trainer.tasks.tokens import TaskTokeniser

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture(scope="module")
def policy() -> Iterator[Policy]:
    torch.set_num_threads(1)
    yield Policy(TrainConfig(), locate(EMBEDDED))
    ranks.leave()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmRollout]:
    log = tmp_path_factory.mktemp("engine") / "engine.log"
    started = VllmRollout(EngineSpec(locate(EMBEDDED), "float32", 512, "processed", log=str(log)))
    yield started
    started.close()


def sampled(engine: VllmRollout, draw: Draw) -> Batch:
    """Eight answers of the engine as a batch."""
    task, tokeniser = load_task("gsm8k"), TaskTokeniser(locate(EMBEDDED))
    problems = task.problems(Source(n_heldout=8)).heldout
    episodes = roll_out(
        task,
        problems,
        tokeniser,
        lambda contexts, room: engine.sample(contexts, room, draw),
        new_tokens=48,
        context_length=512,
    )
    return stack(episodes, torch.zeros(len(episodes)))


def worst(batch: Batch, logp: torch.Tensor) -> float:
    return float(((logp - batch.logp_infer) * batch.mask).abs().max())


def test_nucleus_and_experts_are_those_that_the_engine_used(
    engine: VllmRollout, policy: Policy
) -> None:
    draw = Draw(1.0, top_p=0.8, seed=3, record=Record(routing=True, support=True))
    batch = sampled(engine, draw)
    assert batch.support is not None
    assert batch.routing is not None
    # With the engine's nucleus the trainer says what the engine said; with all tokens it does not.
    assert worst(batch, policy.score(batch).logp) < 1e-4
    whole = Batch(**{**vars(batch), "support": None})
    assert worst(batch, policy.score(whole).logp) > 0.1
    # In float32 both sides choose the same experts, for every input token of every layer.
    found = RoutingWatch(policy, on=True).agreement(whole)
    policy.around = RoutingWatch(policy, on=False).policy.around
    assert found["routing/set_agreement"] > 0.999
    # All tokens but the last of each row were inputs; there are four layers.
    assert found["routing/n"] == 4 * int((batch.lengths - 1).sum())


def test_seeds_decide_the_answers(engine: VllmRollout) -> None:
    first, again = (sampled(engine, Draw(1.0, seed=5)) for _ in range(2))
    assert torch.equal(first.ids, again.ids)
    assert not torch.equal(first.ids[:, :8], first.ids[:, 8:16])


def test_a_transfer_in_place_reaches_every_tensor(
    engine: VllmRollout, policy: Policy, tmp_path: Path
) -> None:
    batch = sampled(engine, Draw(1.0, seed=7))
    sync = Sync(policy.config, policy, [engine], tmp_path)
    sync.begin(resumed=False)
    for _ in range(2):
        before = policy.score(batch).logp
        for _, micro in policy.gradient_batches(batch, list(range(batch.n_rows))):
            policy.backward((policy.forward(micro).logp * micro.mask).sum())
        policy.step(policy.config.optim.warmup_steps)
        report = sync.send(batch, before)
        assert (report.tensors, report.compared) == (71, 71)
        assert (report.stale, report.why_restarted) == ((), ())
        assert report.rows.abs_delta < 1e-4
        # Each of the eight rows is nearer to the new weights, which is too few to decide anything.
        assert (report.rows.rows, report.rows.rows_old, report.rows.answer) == (8, 0, "undecided")
