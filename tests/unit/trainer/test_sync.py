"""Transfers that are checked: an engine that reports success and changes nothing is found out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mismatch_lab.engines.checkpoint import EMBEDDED, locate
from mismatch_lab.trainer import ranks
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.policy import Policy
from mismatch_lab.trainer.rollout import EngineSpec, Transfer
from mismatch_lab.trainer.rollout_hf import HfRollout
from mismatch_lab.trainer.sync import Sync

ROWS = [[5, 17, 40, 9, 33, 21], [8, 12, 101, 60]]


class Counted(HfRollout):
    """Counts how often it is started."""

    restarts = 0

    def restart(self, folder: Path) -> None:
        self.restarts += 1
        super().restart(folder)


class Lying(Counted):
    """Believes that it took the weights."""

    def transfer(self, folder: Path) -> Transfer:
        return Transfer(71, 71, ())


class Forgetful(Counted):
    """Takes all tensors but one, and its fingerprints say so."""

    def transfer(self, folder: Path) -> Transfer:
        name = "model.layers.2.self_attn.sinks"
        kept = self.model.get_parameter(name).detach().clone()
        super().transfer(folder)
        self.model.get_parameter(name).data.copy_(kept)
        return Transfer(71, 71, (name,))


@pytest.fixture
def policy() -> Iterator[Policy]:
    torch.set_num_threads(1)
    yield Policy(TrainConfig(), locate(EMBEDDED))
    ranks.leave()


def move(policy: Policy) -> None:
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.02)


def begun(kind: type[HfRollout], policy: Policy, out: Path, lag: int = 0) -> tuple[Any, Sync]:
    engine = kind(EngineSpec(locate(EMBEDDED), "float32", 512, "processed"))
    sync = Sync(policy.config, policy, [engine], out, lag)
    assert sync.start(ROWS) < 1e-5
    move(policy)
    return engine, sync


def test_a_true_transfer_is_confirmed(policy: Policy, tmp_path: Path) -> None:
    _, sync = begun(HfRollout, policy, tmp_path)
    report = sync.send(ROWS)
    assert (report.restarted, report.stale) == (False, ())
    assert report.abs_delta < 1e-5


def test_a_lie_is_found_by_the_rows_and_mended_by_a_new_engine(
    policy: Policy, tmp_path: Path
) -> None:
    engine, sync = begun(Lying, policy, tmp_path)
    report = sync.send(ROWS)
    assert report.restarted
    assert engine.restarts == 2  # at its start, and now
    assert report.abs_delta < 1e-5


def test_a_stale_fingerprint_is_enough(policy: Policy, tmp_path: Path) -> None:
    _, sync = begun(Forgetful, policy, tmp_path)
    report = sync.send(ROWS)
    assert report.restarted
    assert report.stale == ("model.layers.2.self_attn.sinks",)


@pytest.mark.parametrize("kind", [Lying, Forgetful])
def test_of_several_engines_the_one_that_failed_is_started_anew(
    kind: type[HfRollout], policy: Policy, tmp_path: Path
) -> None:
    kinds = (Counted, kind)
    engines = [each(EngineSpec(locate(EMBEDDED), "float32", 512, "processed")) for each in kinds]
    sync = Sync(policy.config, policy, engines, tmp_path)
    assert sync.start(ROWS) < 1e-5
    move(policy)
    report = sync.send(ROWS)
    assert report.restarted == 1
    assert [engine.restarts for engine in engines] == [1, 2]  # at their start, and now
    assert report.abs_delta < 1e-5
    assert max(sync._disagreement(ROWS)) < 1e-5


def test_a_trainer_that_disagrees_itself_does_not_restart_the_engine_for_ever(
    policy: Policy, tmp_path: Path
) -> None:
    engine, sync = begun(Lying, policy, tmp_path)
    sync.fresh_abs_delta = 1.0  # of a trainer without sinks, say
    report = sync.send(ROWS)
    assert not report.restarted
    assert engine.restarts == 1
    assert report.abs_delta > 1e-3


def test_a_planted_lag_keeps_the_engine_one_update_behind(policy: Policy, tmp_path: Path) -> None:
    _, sync = begun(HfRollout, policy, tmp_path, lag=1)
    assert sync.send(ROWS).abs_delta < 1e-5  # there is no older one
    move(policy)
    late = sync.send(ROWS)
    assert late.abs_delta > 1e-3
    assert not late.restarted
