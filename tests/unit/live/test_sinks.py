"""Each sink is read back by the program that reads it; Weights & Biases is a stand-in here."""

from __future__ import annotations

import json
import math
import sys
import warnings
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mismatch_lab.errors import InputError, MissingDependencyError
from mismatch_lab.live import MismatchMonitor
from mismatch_lab.live.sinks import SINKS, check_sinks, open_sinks

VALUES = {"decode_train/abs_delta_mean": 0.02, "decode_train/pearson": math.nan, "alarms": 1.0}


def written(name: str, folder: Path) -> None:
    (sink,) = open_sinks((name,), folder, 3)
    for step in (0, 1):
        sink.write(step, {**VALUES, "decode_train/abs_delta_mean": 0.02 + step})
    sink.close()


def test_lines(tmp_path: Path) -> None:
    written("jsonl", tmp_path)
    lines = (tmp_path / "metrics-rank-3.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[1]) == {
        "step": 1,
        "decode_train/abs_delta_mean": 1.02,
        "decode_train/pearson": None,
        "alarms": 1.0,
    }
    assert len(lines) == 2


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written("tensorboard", tmp_path)
    read = EventAccumulator(str(tmp_path / "tensorboard" / "rank-3"))
    read.Reload()
    events = read.Scalars("decode_train/abs_delta_mean")
    assert [(one.step, round(one.value, 4)) for one in events] == [(0, 0.02), (1, 1.02)]
    assert "decode_train/pearson" not in read.Tags()["scalars"]


def test_prometheus(tmp_path: Path) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    written("prometheus", tmp_path)
    text = (tmp_path / "mismatch_lab-rank-3.prom").read_text(encoding="utf-8")
    found = {family.name: family for family in parser.text_string_to_metric_families(text)}
    (sample,) = found["mismatch_lab_decode_train_abs_delta_mean"].samples
    assert (sample.labels, sample.value) == ({"rank": "3"}, 1.02)
    assert math.isnan(found["mismatch_lab_decode_train_pearson"].samples[0].value)
    assert found["mismatch_lab_step"].samples[0].value == 1
    assert not list(tmp_path.glob("*.partial"))


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module with what the sink uses of the real one, which is not installed here."""
    module: Any = ModuleType("wandb")
    module.__spec__ = ModuleSpec("wandb", None)
    module.run = None
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_logs_to_the_loops_own_run_under_an_axis_of_its_own(
    wandb: Any, tmp_path: Path
) -> None:
    (sink,) = open_sinks(("wandb",), tmp_path, 0)
    sink.write(0, VALUES)  # no run yet: nothing to log to
    logged, axes = [], {}
    wandb.run = SimpleNamespace(
        log=logged.append,
        define_metric=lambda name, step_metric: axes.update({name: step_metric}),
    )
    for step in (5, 6):
        sink.write(step, VALUES)
    assert axes == {"decode_train/*": "mismatch_lab/step", "alarms": "mismatch_lab/step"}
    expected = {"decode_train/abs_delta_mean": 0.02, "alarms": 1.0}
    assert logged == [{**expected, "mismatch_lab/step": step} for step in (5, 6)]


def test_what_is_not_there_is_said_when_the_monitor_is_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Unknown sink 'wandbb'"):
        MismatchMonitor(tmp_path, model="m", dtype="bfloat16", sinks=("jsonl", "wandbb"))
    if find_spec("wandb") is None:
        with pytest.raises(MissingDependencyError, match="needs wandb"):
            check_sinks(("wandb",))
    assert set(SINKS) == {"jsonl", "tensorboard", "wandb", "prometheus"}


def test_a_sink_that_fails_is_dropped_and_the_others_go_on(wandb: Any, tmp_path: Path) -> None:
    wandb.run = SimpleNamespace()  # has no log
    monitor = MismatchMonitor(tmp_path, model="m", dtype="float32", sinks=("wandb", "jsonl"))
    ids, mask = np.array([[1, 2, 3]]), np.array([[0, 1, 1]])
    logp = np.array([[0.0, -1.0, -2.0]])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for step in range(3):
            monitor.observe(step, ids, mask, logp, logp - 1e-5)
            monitor.flush()
        monitor.close()
    assert len(seen) == 1
    assert len((tmp_path / "metrics-rank-0.jsonl").read_text().splitlines()) == 3
