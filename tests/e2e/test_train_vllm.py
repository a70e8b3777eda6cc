"""Roll-outs by the real vLLM: its draws, its re-scoring, transfers in place, and what its sampler
and routers decided.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from mismatch_lab.checkpoints.config import EMBEDDED, resolve_model_path
from mismatch_lab.trainer import ranks
from mismatch_lab.trainer.batch import Batch, stack
from mismatch_lab.trainer.config import TrainConfig, read_config
from mismatch_lab.trainer.loop import train
from mismatch_lab.trainer.measure import own_routing
from mismatch_lab.trainer.metrics import read_metrics
from mismatch_lab.trainer.policy import Policy
from mismatch_lab.trainer.rollout import EngineSpec, Record, SamplingParams
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
    yield Policy(TrainConfig(), resolve_model_path(EMBEDDED))
    ranks.leave()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmRollout]:
    log = tmp_path_factory.mktemp("engine") / "engine.log"
    started = VllmRollout(
        EngineSpec(resolve_model_path(EMBEDDED), "float32", 512, "processed", log=str(log))
    )
    yield started
    started.close()


def sampled(engine: VllmRollout, sampling: SamplingParams) -> Batch:
    """Eight answers of the engine as a batch."""
    task, tokeniser = load_task("gsm8k"), TaskTokeniser(resolve_model_path(EMBEDDED))
    problems = task.problems(Source(n_heldout=8)).heldout
    episodes = roll_out(
        task,
        problems,
        tokeniser,
        lambda contexts, max_new_tokens: engine.sample(contexts, max_new_tokens, sampling),
        new_tokens=48,
        context_length=512,
    )
    return stack(episodes, torch.zeros(len(episodes)))


def worst(batch: Batch, logp: torch.Tensor) -> float:
    return float(((logp - batch.logp_infer) * batch.mask).abs().max())


def test_nucleus_and_experts_are_those_that_the_engine_used(
    engine: VllmRollout, policy: Policy
) -> None:
    sampling = SamplingParams(1.0, top_p=0.8, seed=3, record=Record(routing=True, support=True))
    batch = sampled(engine, sampling)
    assert batch.support is not None
    assert batch.routing is not None
    # With the engine's nucleus the trainer says what the engine said; with all tokens it does not.
    assert worst(batch, policy.score(batch).logp) < 1e-4
    whole = Batch(**{**vars(batch), "support": None})
    assert worst(batch, policy.score(whole).logp) > 0.1
    # In float32 both sides choose the same experts, for every input token of every layer.
    found = own_routing(policy, whole)
    assert found["routing/set_agreement"] > 0.999
    # All tokens but the last of each row were inputs; there are four layers.
    assert found["routing/n"] == 4 * int((batch.lengths - 1).sum())


def test_seeds_decide_the_answers(engine: VllmRollout) -> None:
    first, again = (sampled(engine, SamplingParams(1.0, seed=5)) for _ in range(2))
    assert torch.equal(first.ids, again.ids)
    assert not torch.equal(first.ids[:, :8], first.ids[:, 8:16])


def test_turns_draw_with_numbers_of_their_own(engine: VllmRollout) -> None:
    # The same contexts in turn 1 and in turn 2, flat enough (T = 2) for chance to decide.
    contexts, max_new_tokens = [[5, 17, 40 + row] for row in range(10)], [12] * 10

    def answers(**place: int) -> list[list[int]]:
        found = engine.sample(contexts, max_new_tokens, SamplingParams(2.0, seed=1, **place))
        return [answer.token_ids for answer in found]

    first, second = answers(step=2, turn=1), answers(step=2, turn=2)
    assert answers(step=2, turn=1) == first
    assert [a for a, b in zip(first, second, strict=True) if a == b] == []
    # As rows 4 to 9 of all, wherever they are asked.
    drawn = engine.sample(
        contexts[4:], max_new_tokens[4:], SamplingParams(2.0, seed=1, step=2, turn=1, first_row=4)
    )
    assert [answer.token_ids for answer in drawn] == first[4:]


def test_answers_say_whether_they_ran_out_of_room(engine: VllmRollout) -> None:
    task, tokeniser = (
        load_task("gsm8k", {"request": ""}),
        TaskTokeniser(resolve_model_path(EMBEDDED)),
    )
    contexts = [tokeniser.prompt_ids(p) for p in task.problems(Source(n_heldout=4)).heldout] * 2
    found = engine.sample(contexts, [96] * 4 + [5] * 4, SamplingParams(0.0))
    ended = [answer.token_ids[-1] in tokeniser.eos_ids for answer in found]
    assert [answer.truncated for answer in found] == [not end for end in ended]
    assert ended == [True] * 4 + [False] * 4


def test_a_row_that_fills_the_context_is_scored(engine: VllmRollout, policy: Policy) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(5, 500, (n,), generator=generator).tolist() for n in (512, 2, 511)]
    found = engine.score(rows, 1.0)
    assert [len(logp) for logp in found] == [512, 2, 511]
    for row, logp in zip(rows, found, strict=True):
        nothing = torch.zeros(1, len(row))
        batch = Batch(
            torch.tensor([row]), torch.tensor([len(row)]), nothing, nothing, nothing[:, 0]
        )
        own = policy.score(batch).logp[0, 1:]
        torch.testing.assert_close(torch.tensor(logp[1:]), own, rtol=1e-4, atol=1e-4)


def test_a_full_row_leaves_the_model_what_it_is(phi3_long_rope: Path, tmp_path: Path) -> None:
    # In an engine whose max_model_len is beyond 64, all positions get other rotary factors.
    log = str(tmp_path / "engine.log")
    started = VllmRollout(EngineSpec(str(phi3_long_rope), "float32", 64, "processed", log=log))
    try:
        row = torch.randint(5, 500, (64,), generator=torch.Generator().manual_seed(1)).tolist()
        (found,) = started.score([row], 1.0)
    finally:
        started.close()
    model = AutoModelForCausalLM.from_pretrained(phi3_long_rope, dtype=torch.float32).eval()
    with torch.no_grad():
        log_probs = torch.log_softmax(model(torch.tensor([row])).logits[0, :-1], -1)
    own = log_probs.gather(1, torch.tensor(row)[1:, None]).squeeze(1)
    torch.testing.assert_close(torch.tensor(found[1:]), own, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_the_engine_scores_what_it_sampled(tmp_path: Path) -> None:
    # Where logits are divided by the temperature in bfloat16 the two differ by 0.001 nats.
    spec = EngineSpec(
        resolve_model_path(EMBEDDED), "bfloat16", 512, "processed", log=str(tmp_path / "engine.log")
    )
    started = VllmRollout(spec)
    try:
        batch = sampled(started, SamplingParams(0.7, seed=3))
        rows = [ids[:n].tolist() for ids, n in zip(batch.ids, batch.lengths, strict=True)]
        scored = started.score(rows, 0.7)
    finally:
        started.close()
    places = [np.flatnonzero(mask) for mask in batch.mask.numpy()]
    again = np.concatenate([np.array(logp)[at] for logp, at in zip(scored, places, strict=True)])
    drawn = batch.logp_infer[batch.mask > 0].numpy()
    assert len(drawn) > 100
    assert drawn.std() > 0.1
    assert np.abs(again - drawn).max() < 1e-6


def test_a_policy_that_replays_is_at_no_distance_from_itself(tmp_path: Path) -> None:
    # In bfloat16 some of the engine's experts are not those that the trainer would choose.
    settings = {
        "dtype": "bfloat16", "steps": 1, "eval_every": 0, "checkpoint_every": 0,
        "data.n_heldout": 8, "rollout.prompts": 4, "rollout.group": 4, "rollout.new_tokens": 48,
        "loss.kl_weight": 0.01, "fixes": ["routing-replay"],
    }  # fmt: skip
    train(read_config(None, settings), tmp_path)
    first = read_metrics(tmp_path)[0]
    assert first["routing/set_agreement"] < 1.0
    assert first["kl_ref"] == 0.0


def test_a_transfer_in_place_reaches_every_tensor(
    engine: VllmRollout, policy: Policy, tmp_path: Path
) -> None:
    batch = sampled(engine, SamplingParams(1.0, seed=7))
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
