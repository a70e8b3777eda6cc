"""What a run leaves in its folder, and who is told of it."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from mismatch_lab.errors import EngineError, InputError, MissingDependencyError
from mismatch_lab.trainer import loop, ranks, run
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.console import StepPrinter
from mismatch_lab.trainer.dashboard import Dashboard
from mismatch_lab.trainer.watcher import Watcher

CONFIG = TrainConfig(steps=2)


@pytest.fixture(autouse=True)
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here starts an engine: it need not be there."""
    monkeypatch.setattr(run, "find_spec", lambda name: name)


def a_loop(
    monkeypatch: pytest.MonkeyPatch, made: dict[str, str], error: BaseException | None
) -> None:
    """In place of training: some files, then an error."""

    def train(_config: TrainConfig, out: Path, watcher: Watcher) -> None:
        assert isinstance(watcher, StepPrinter)  # pytest's stdout is no terminal
        assert json.loads((out / "train.json").read_text())["config"]["steps"] == 2
        for name, text in made.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(text)
        if error is not None:
            raise error

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(ranks, "join", lambda: None)
    monkeypatch.setattr(ranks, "share", lambda value: value)


@pytest.mark.parametrize(
    "error", [InputError("no such file"), EngineError("died"), KeyboardInterrupt(), OSError()]
)
def test_a_run_that_ends_before_its_first_step_can_be_given_again(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
) -> None:
    a_loop(monkeypatch, {"logs/engine.log": "why", "metrics.jsonl": ""}, error)
    for _ in range(2):
        with pytest.raises(type(error)):
            run.run_training(CONFIG, tmp_path, False, ())
        assert not (tmp_path / "train.json").exists()
    assert (tmp_path / "logs" / "engine.log").read_text() == "why"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "made", [{"metrics.jsonl": '{"step": 0}\n'}, {"checkpoints/step-000001/state.json": "{}"}]
)
def test_a_run_that_has_begun_keeps_its_record(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    made: dict[str, str],
) -> None:
    a_loop(monkeypatch, made, EngineError("died"))
    typed = ("mismatch-lab", "train", "gsm8k", "--fault", "a b", "--out", "x", "--resume")
    with pytest.raises(EngineError):
        run.run_training(CONFIG, tmp_path, False, typed)
    said = capsys.readouterr().out
    anew = "" if "checkpoints" in str(made) else ", from step 0: there is no checkpoint yet"
    assert said == (
        f"Run folder: {tmp_path}\nto go on{anew}:\n"
        f"mismatch-lab train gsm8k --fault 'a b' --out {tmp_path} --resume\n"
    )
    with pytest.raises(InputError, match="holds a run already"):
        run.run_training(CONFIG, tmp_path, False, ())


def test_a_record_of_an_earlier_call_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_loop(monkeypatch, {}, None)
    run.run_training(CONFIG, tmp_path, False, ())
    assert capsys.readouterr().out == f"Run folder: {tmp_path}\n"
    a_loop(monkeypatch, {}, InputError("refused"))
    with pytest.raises(InputError, match="refused"):
        run.run_training(CONFIG, tmp_path, True, ())
    assert (tmp_path / "train.json").exists()
    assert "no checkpoint yet: it starts again at step 0" in capsys.readouterr().out


@pytest.mark.parametrize("there", [False, True])
def test_only_a_run_can_be_gone_on_with(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "nope"
    if there:
        folder.mkdir()
    with pytest.raises(InputError, match=r"nope holds no run that could go on"):
        run.run_training(CONFIG, folder, True, ())
    assert folder.exists() == there


def test_what_is_not_installed_is_said_before_anything_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "find_spec", lambda name: None if name == "torch" else name)
    with pytest.raises(MissingDependencyError, match=r"needs torch[^$]*mismatch-lab\[train\]"):
        run.run_training(CONFIG, tmp_path / "out", False, ())
    assert not (tmp_path / "out").exists()


def test_a_dashboard_where_it_can_be_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def found(**environment: str) -> type[Watcher]:
        with monkeypatch.context() as patch:
            for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
                patch.delenv(name, raising=False)
            for name, value in {"TERM": "xterm", **environment}.items():
                patch.setenv(name, value)
            return type(run._watcher(CONFIG, tmp_path))

    assert found() is StepPrinter
    assert found(FORCE_COLOR="1") is StepPrinter  # a pipe in colour: `--compare` reads it
    leader, follower = os.openpty()
    with os.fdopen(leader, "wb"), os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        assert found() is Dashboard
        assert found(TERM="dumb") is StepPrinter


def test_a_step_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", file := io.StringIO())
    values: dict[str, Any] = {"reward": 0.25, "grad_norm": float("nan"), "sync/restarted": 0}
    printer = StepPrinter(20)
    printer.begin(0)
    printer.phase("rollout")
    printer.step(3, values | {"seconds/step": 1.26})
    assert file.getvalue() == "step    3/20  reward 0.250  s 1.3\n"
    why = {"sync/restarted": 1, "sync/why_restarted": "other values: model.norm.weight"}
    printer.step(4, why)
    assert file.getvalue().splitlines()[1:] == [
        "step    4/20  restarts 1",
        "engine started anew: other values: model.norm.weight",
    ]


def test_what_the_loss_could_not_use_is_said_where_it_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdout", file := io.StringIO())
    printer = StepPrinter(20)
    printer.step(3, {"updates_skipped": 0, "tokens_dropped": 0})
    printer.step(4, {"updates_skipped": 1, "tokens_dropped": 7})
    assert [line.strip() for line in file.getvalue().splitlines()] == [
        "step    3/20",
        "step    4/20  updates skipped 1  tokens dropped 7",
    ]
