"""Transfers that are checked: an engine that reports success and changes nothing is found out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mismatch_lab.checkpoints.config import EMBEDDED, resolve_model_path
from mismatch_lab.errors import EngineError
from mismatch_lab.trainer import ranks
from mismatch_lab.trainer.batch import Batch
from mismatch_lab.trainer.config import Optim, TrainConfig
from mismatch_lab.trainer.planting import plan_run
from mismatch_lab.trainer.policy import Policy
from mismatch_lab.trainer.rollout import EngineSpec, Transfer
from mismatch_lab.trainer.rollout_hf import HfRollout
from mismatch_lab.trainer.sync import Sync, SyncReport

SINKS = "model.layers.2.self_attn.sinks"
EXPERTS = "model.layers.2.mlp.experts.down_proj"
TENSORS = 71
ROWS = 40


class Counted(HfRollout):
    """Counts how often it is started."""

    restarts = 0

    def restart(self, folder: Path) -> None:
        self.restarts += 1
        super().restart(folder)


class Lying(Counted):
    """Believes that it took the weights."""

    def transfer(self, folder: Path) -> Transfer:
        return Transfer(TENSORS, TENSORS)


class Forgetful(Counted):
    """Takes all tensors but one."""

    def transfer(self, folder: Path) -> Transfer:
        kept = self.model.get_parameter(EXPERTS).detach().clone()
        super().transfer(folder)
        self.model.get_parameter(EXPERTS).data.copy_(kept)
        return self.verify(folder)


class Blind(Counted):
    """Takes everything, and can show nothing of it."""

    def transfer(self, folder: Path) -> Transfer:
        super().transfer(folder)
        return Transfer(TENSORS, 0)


class Spoiled(Counted):
    """From some start on it does not hold what it was started on."""

    sound_starts = 1

    def restart(self, folder: Path) -> None:
        super().restart(folder)
        if self.restarts > self.sound_starts:
            self.model.get_parameter(SINKS).data[0] += 2**-10


class SpoiledAtOnce(Spoiled):
    """…and that is the first."""

    sound_starts = 0


class SpoiledLater(Spoiled, Lying):
    """Has to be started again, and is spoiled then."""


@pytest.fixture(autouse=True)
def process_group() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    ranks.leave()


def policy_of(config: TrainConfig) -> Policy:
    return Policy(config, resolve_model_path(EMBEDDED), plan_run(config).change_model)


def settings(dtype: str = "float32", lr: float = 1e-6, **more: Any) -> TrainConfig:
    return TrainConfig.model_validate({"dtype": dtype, "optim": Optim(lr=lr), **more})


def some_batch() -> Batch:
    """Rows of 20 to 47 tokens, from the tenth on an answer."""
    lengths = torch.arange(ROWS) % 28 + 20
    ids = torch.randint(5, 500, (ROWS, 47), generator=torch.Generator().manual_seed(0))
    places = torch.arange(47)[None]
    mask = ((places >= 10) & (places < lengths[:, None])).float()
    return Batch(ids, lengths, mask, torch.zeros(ids.shape), torch.zeros(ROWS))


def learn(policy: Policy, batch: Batch) -> Tensor:
    """One Adam step, in which some tokens become likelier and some less; log-probs before it."""
    before = policy.score(batch).logp
    generator = torch.Generator().manual_seed(1)
    for _, micro in policy.gradient_batches(batch, list(range(ROWS))):
        weights = torch.randn(micro.ids.shape, generator=generator) * micro.mask
        policy.backward((policy.forward(micro).logp * weights).sum())
    assert policy.step(policy.config.optim.warmup_steps) > 0
    return before


def begun(
    kind: type[HfRollout], config: TrainConfig, out: Path, lag: int = 0, engines: int = 1
) -> tuple[Any, Sync]:
    started = [
        kind(EngineSpec(resolve_model_path(EMBEDDED), config.dtype, 512, "processed"))
        for _ in range(engines)
    ]
    sync = Sync(config, policy_of(config), started, out, lag)
    sync.begin(resumed=False)
    return started[-1], sync


def updated(sync: Sync) -> SyncReport:
    batch = some_batch()
    return sync.send(batch, learn(sync.policy, batch))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_true_transfer_is_confirmed_whole(dtype: str, tmp_path: Path) -> None:
    engine, sync = begun(Counted, settings(dtype), tmp_path)
    for _ in range(3):
        report = updated(sync)
        assert (report.tensors, report.compared) == (TENSORS, TENSORS)
        assert (report.stale, report.uncompared, report.why_restarted) == ((), (), ())
        assert report.rows.answer == "new"
        assert report.rows.rows == 32
        assert report.rows.abs_delta < (1e-5 if dtype == "float32" else 2e-2)
    assert engine.restarts == 1  # its start


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_lie_is_found_by_the_rows_at_a_learning_rate_of_rl(dtype: str, tmp_path: Path) -> None:
    engine, sync = begun(Lying, settings(dtype), tmp_path)
    report = updated(sync)
    assert report.why_restarted == ("log-probs are those of the old weights in 32 rows",)
    assert engine.restarts == 2  # at its start, and now
    assert report.rows.answer == "new"
    assert report.values()["sync/restarted"] == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_stale_tensor_of_one_step_is_named(dtype: str, tmp_path: Path) -> None:
    # In bfloat16 a step of 1e-6 moves about one in a hundred of its 196,608 values.
    engine, sync = begun(Forgetful, settings(dtype), tmp_path)
    report = updated(sync)
    assert report.stale == (EXPERTS,)
    assert report.why_restarted == (f"other values: {EXPERTS}",)
    assert engine.restarts == 2


def test_what_cannot_be_compared_is_not_confirmed(tmp_path: Path) -> None:
    engine, sync = begun(Blind, settings(), tmp_path)
    report = updated(sync)
    assert report.why_restarted == ("0 of 71 tensors were compared",)
    assert engine.restarts == 2
    assert not Transfer(2, 2, uncompared=()).why_not
    assert not Transfer(0, 0).confirmed
    assert Transfer(2, 1, uncompared=("b",)).why_not == "not to be found: b"
    assert Transfer(0, 0, error="KeyError: 'w'").why_not == "KeyError: 'w'"


def test_a_fresh_engine_is_not_right_by_definition(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"does not hold the trainer's weights.*{SINKS}"):
        begun(SpoiledAtOnce, settings(), tmp_path)
    _, sync = begun(SpoiledLater, settings(), tmp_path)
    with pytest.raises(EngineError, match=f"does not hold the trainer's weights.*{SINKS}"):
        updated(sync)


def test_a_planted_fault_may_be_one_of_weights(tmp_path: Path) -> None:
    _, sync = begun(SpoiledAtOnce, settings(faults=("stale-weights:slight",)), tmp_path)
    assert updated(sync).compared == TENSORS


@pytest.mark.parametrize("kind", [Lying, Forgetful])
def test_of_several_engines_the_one_that_failed_is_started_anew(
    kind: type[HfRollout], tmp_path: Path
) -> None:
    config = settings(lr=1e-4)
    spec = EngineSpec(resolve_model_path(EMBEDDED), "float32", 512, "processed")
    engines: list[Any] = [Counted(spec), kind(spec)]
    sync = Sync(config, policy_of(config), engines, tmp_path)
    sync.begin(resumed=False)
    report = updated(sync)
    assert len(report.why_restarted) == 1
    assert [engine.restarts for engine in engines] == [1, 2]  # at their start, and now
    assert report.rows.abs_delta < 1e-5


def test_a_trainer_that_is_broken_does_not_restart_the_engine(tmp_path: Path) -> None:
    # It drops the sinks: the sides disagree, before an update as after it.
    engine, sync = begun(Counted, settings(lr=1e-4, faults=("sinks-dropped",)), tmp_path)
    for _ in range(3):
        report = updated(sync)
        assert report.rows.abs_delta > 0.01
        assert report.why_restarted == ()
    assert engine.restarts == 1


def test_an_update_that_changed_nothing_is_no_stale_engine(tmp_path: Path) -> None:
    engine, sync = begun(Lying, settings(), tmp_path)
    batch = some_batch()
    before = sync.policy.score(batch).logp
    report = sync.send(batch, before + 1e-3)  # another order of sums, say
    assert report.why_restarted == ()
    assert engine.restarts == 1


def test_a_planted_lag_keeps_the_engine_one_update_behind(tmp_path: Path) -> None:
    config = settings(lr=1e-3, faults=("stale-weights:slight",))
    engine, sync = begun(Counted, config, tmp_path, lag=1)
    assert updated(sync).rows.abs_delta < 1e-5  # there is no older one
    late = updated(sync)
    assert late.rows.abs_delta > 1e-3
    assert late.rows.answer == "old"
    assert late.why_restarted == ()
    assert engine.restarts == 1


def test_a_resumed_run_starts_its_engines_on_the_policy(tmp_path: Path) -> None:
    engine = Counted(EngineSpec(resolve_model_path(EMBEDDED), "float32", 512, "processed"))
    sync = Sync(settings(lr=1e-3), policy_of(settings(lr=1e-3)), [engine], tmp_path)
    learn(sync.policy, some_batch())
    with pytest.raises(EngineError, match=r"other values: lm_head\.weight, model\.embed_tokens"):
        sync.begin(resumed=False)
    sync.begin(resumed=True)
    assert engine.verify(sync.folder).confirmed
