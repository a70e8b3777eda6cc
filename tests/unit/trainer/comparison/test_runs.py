"""Folders of runs, and the command line that makes one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mismatch_lab.cli import app
from mismatch_lab.errors import InputError
from mismatch_lab.trainer import run as trainer_run
from mismatch_lab.trainer.comparison.arms import ARMS
from mismatch_lab.trainer.comparison.launch import program
from mismatch_lab.trainer.comparison.runs import Run, arguments, plan_runs
from mismatch_lab.trainer.config import TrainConfig, read_config

BASE = {
    "steps": 2,
    "seed": 3,
    "model": "123",  # a name that JSON would read as a number
    "attention": "eager",
    "rollout.engine": "hf",
    "rollout.args": {"a.b": 1, "c": "true"},
    "data.heldout": "a file.jsonl",
    "optim.lr": 3e-5,
}


def test_the_command_makes_the_same_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[tuple[TrainConfig, Path, bool]] = []
    monkeypatch.setattr(
        trainer_run,
        "run_training",
        lambda config, out, resume, _: made.append((config, out, resume)),
    )
    runs = plan_runs(read_config(None, BASE), tuple(ARMS), 1, tmp_path)
    for run in runs:
        result = CliRunner().invoke(app, list(arguments(run.config, run.folder)))
        assert result.exit_code == 0, result.output
    assert made == [(run.config, run.folder, False) for run in runs]


def test_a_run_that_has_begun_goes_on_and_another_begins(tmp_path: Path) -> None:
    (run,) = plan_runs(TrainConfig(), ("healthy",), 1, tmp_path)
    run.folder.mkdir(parents=True)
    assert "--resume" not in program(run)
    (run.folder / "train.json").write_text("{}")
    assert program(run)[-1] == "--resume"


def test_plan_takes_all_arms_of_a_seed_before_the_next(tmp_path: Path) -> None:
    runs = plan_runs(read_config(None, BASE), ("fixed", "broken"), 2, tmp_path)
    names = ["fixed-seed3", "broken-seed3", "fixed-seed4", "broken-seed4"]
    assert [run.name for run in runs] == names
    assert runs[0].folder == tmp_path / "runs" / "fixed-seed3"


def test_finished_is_the_line_after_the_last_step(tmp_path: Path) -> None:
    run = Run("healthy", 0, read_config(None, {"steps": 2}), tmp_path)
    assert not run.finished()
    assert run.problem() == "not begun"
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 0}\n{"step": 1}\n{"step": 2')
    assert not run.finished()
    metrics.write_text('{"step": 0}\n{"step": 1}\n{"step": 2}\n')
    assert run.finished()


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    (run,) = plan_runs(TrainConfig(), ("broken",), 1, tmp_path)
    run.folder.mkdir(parents=True)
    record = {"config": run.config.model_dump(mode="json")}
    (run.folder / "train.json").write_text(json.dumps(record))
    plan_runs(TrainConfig(), ("broken",), 1, tmp_path)
    with pytest.raises(InputError, match=r"broken-seed0 holds a run with other settings: steps"):
        plan_runs(read_config(None, {"steps": 41}), ("broken",), 1, tmp_path)
