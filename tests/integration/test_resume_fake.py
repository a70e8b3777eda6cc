"""A diagnosis that was ended goes on where it was: nothing is measured twice, or differs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from program import Lab, wait_for

from mismatch_lab.errors import InputError
from mismatch_lab.report import page
from mismatch_lab.run import diagnose
from mismatch_lab.run.request import DiagnoseRequest, build_run
from mismatch_lab.schema import Findings, RunSpec
from mismatch_lab.schema.events import Captured, Event, OnEvent, StageBegan


class EndedError(Exception):
    """Stands for a kill: it passes through everything."""


def asked(probe: Path, **options: Any) -> RunSpec:
    plain = DiagnoseRequest(model="fake", probe=str(probe), engine="fake", trainer="fake")
    defect = {"depth": "standard", "dtype": "float32", "trainer_args": ("defect=dropout",)}
    return build_run(replace(plain, **defect | options))


def until(ends: Callable[[Event], bool], seen: list[Event]) -> OnEvent:
    def on_event(event: Event) -> None:
        seen.append(event)
        if ends(event):
            raise EndedError

    return on_event


def cached(seen: list[Event]) -> set[str]:
    """Captures that were there before."""
    return {event.id for event in seen if isinstance(event, Captured) and event.cached}


def what_matters(found: Findings) -> dict[str, Any]:
    """Findings without the times, which no two runs share."""
    whole = found.model_dump(mode="json", exclude={"timings_s", "run"})
    for experiment in whole["verdict"]["experiments"]:
        experiment["cost_s"] = 0
    return whole


def kept(out: Path) -> dict[str, int]:
    """Every capture of a run's folder -> when its arrays were written."""
    arrays = (*out.glob("captures/*/arrays.*"), *out.glob("experiments/**/arrays.*"))
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in arrays}


ENDS: dict[str, Callable[[Event], bool]] = {
    "engine done": lambda e: isinstance(e, Captured) and e.id == "train",
    "measured": lambda e: e == StageBegan("measuring"),
    "on trial": lambda e: isinstance(e, StageBegan) and e.text.startswith("on trial"),
    "judged": lambda e: e == StageBegan("writing the report"),
}


@pytest.fixture(scope="module")
def whole(probe: Path, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Of the run that was never ended."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return diagnose.diagnose(asked(probe), out, False, lambda event: None)


@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
def test_an_ended_run_goes_on(
    ends: Callable[[Event], bool],
    whole: Findings,
    probe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(page, "write_report", lambda folder: folder)
    monkeypatch.setattr(diagnose, "forget", lambda out: None)
    run, out = asked(probe), tmp_path / "run"
    with pytest.raises(EndedError):
        diagnose.diagnose(run, out, False, until(ends, []))
    before, seen = kept(out), list[Event]()
    (out / "findings.json").unlink(missing_ok=True)

    found = diagnose.diagnose(run, out, False, until(lambda e: False, seen), resume=True)

    assert what_matters(found) == what_matters(whole)
    assert found.verdict.causes
    after = kept(out)
    whole_tasks = {f"captures/{name}/" for name in cached(seen)}
    again = {name for name, when in before.items() if after.get(name) != when}
    # Only what belonged to the task that was ended in the middle is made once more.
    assert not {name for name in again if name.startswith("experiments")}
    assert not {name for name in again if any(name.startswith(task) for task in whole_tasks)}
    assert whole_tasks >= {"captures/decode/", "captures/prefill/"}


def test_what_is_asked_otherwise_is_measured_anew(
    probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "write_report", lambda folder: folder)
    out, seen = tmp_path / "run", list[Event]()
    with pytest.raises(EndedError):
        diagnose.diagnose(asked(probe), out, False, until(ENDS["measured"], []))
    healthy = asked(probe, trainer_args=())
    found = diagnose.diagnose(healthy, out, False, until(lambda e: False, seen), resume=True)
    assert found.verdict.status == "match"
    assert "decode" in cached(seen)
    assert "train" not in cached(seen)
    assert not (out / "experiments").exists()
    assert not (out / "kept.json").exists()
    with pytest.raises(InputError, match="holds a finished run"):
        diagnose.diagnose(healthy, out, False, lambda event: None, resume=True)


def test_a_repeat_that_was_ended_is_measured_again(
    probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "write_report", lambda folder: folder)
    run, out, seen = asked(probe, trainer_args=(), repeats=2), tmp_path / "run", list[Event]()

    def ends(event: Event) -> bool:
        """With the trainer's task of the second run, whose engine's is whole then."""
        return ENDS["engine done"](event) and StageBegan("run 2 of 2") in seen

    with pytest.raises(EndedError):
        diagnose.diagnose(run, out, False, until(ends, seen))
    found = diagnose.diagnose(run, out, False, lambda event: None, resume=True)
    assert found.over_runs is not None
    assert [(one.run, one.status) for one in found.over_runs.runs] == [(1, "match"), (2, "match")]


def test_the_interrupted_command_says_how_to_go_on(lab: Lab, probe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("diagnose", "fake", "--engine", "fake", "--trainer", "fake", "--dtype", "float32",
             "--probe", probe, "--out", out)  # fmt: skip
    with lab.start(*words) as process:
        wait_for((out / "captures" / "decode").is_dir, "the first capture")
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130, said
    line = next(line for line in said.splitlines() if line.startswith("to go on: "))
    assert line.split()[-3:] == ["--out", str(out), "--resume"]
    gone_on = lab.call(*line.removeprefix("to go on: mismatch-lab ").split())
    assert gone_on.returncode == 0, gone_on.stderr
    assert "MATCH" in gone_on.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--resume",), "--resume needs --out"),
        (("--resume", "--out", "{new}"), "holds no run that could go on"),
        (("--resume", "--overwrite", "--out", "{new}"), "two things"),
        (("--resume", "--out", "{new}", "--captures", "x.npz"), "starts no side"),
    ],
)
def test_what_cannot_go_on_is_refused(
    lab: Lab, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    filled = [word.format(new=tmp_path / "new") for word in words]
    done = lab.call("diagnose", "fake", "--engine", "fake", "--trainer", "fake", *filled)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "new").exists()
