"""Metrics as lines of JSON, and as TensorBoard's event files where they are asked for."""

import math
import sys
from pathlib import Path

import pytest

from mismatch_lab.errors import MissingDependencyError
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.metrics import Clock, Metrics, read_metrics
from mismatch_lab.trainer.run import check


def test_steps_after_the_checkpoint_are_written_anew(tmp_path: Path) -> None:
    before = Metrics(tmp_path, 0)
    for step in range(3):
        before.write(step, {"reward": float(step), "entropy": math.nan})
    Metrics(tmp_path, 1).write(1, {"reward": 9.0})
    assert read_metrics(tmp_path) == [
        {"step": 0, "reward": 0.0, "entropy": None},
        {"step": 1, "reward": 9.0},
    ]
    assert not (tmp_path / "tensorboard").exists()  # nobody asked


def test_without_tensorboard_a_run_that_asks_for_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    check(TrainConfig())
    with pytest.raises(MissingDependencyError, match="not installed") as refused:
        check(TrainConfig(tensorboard=True))
    assert refused.value.hint == "pip install tensorboard"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_event_files_hold_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    before = Metrics(tmp_path, 0, tensorboard=True)
    for step in range(3):
        before.write(step, {"reward": step / 4, "entropy": math.nan, "note": "text"})
    Metrics(tmp_path, 2, tensorboard=True).write(2, {"reward": 0.75})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["reward"]
    found = [(event.step, event.value) for event in events.Scalars("reward")]
    assert found == [(0, 0.0), (1, 0.25), (2, 0.75)]


def test_the_clock_tells_of_a_phase_as_it_begins() -> None:
    told: list[str] = []
    clock = Clock(told.append)
    with clock.phase("score"):
        assert told == ["score"]
        assert clock.seconds == {}
    assert set(clock.values()) == {"seconds/score", "seconds/step"}
