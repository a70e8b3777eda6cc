"""A whole comparison, with a stand-in for the trainer: what runs, what is shown and escaped."""

from __future__ import annotations

import fcntl
import signal
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mismatch_lab.errors import InputError, MismatchLabError
from mismatch_lab.trainer import run as trainer_run
from mismatch_lab.trainer.comparison import launch
from mismatch_lab.trainer.comparison.compare import compare
from mismatch_lab.trainer.comparison.duration import before
from mismatch_lab.trainer.comparison.records import Comparison
from mismatch_lab.trainer.comparison.runs import Run, plan_runs
from mismatch_lab.trainer.config import TrainConfig, read_config

BASE = read_config(None, {"steps": 2, "eval_every": 0})
STAND_IN = """
import json, sys
from pathlib import Path
folder, arm, seed, config = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
(folder / "train.json").write_text(json.dumps({"config": json.loads(config)}))
with (folder.parent.parent / "order").open("a") as order:
    order.write(folder.name + "\\n")
dies = arm == "broken" and seed == 1 and not (folder / "mended").exists()
gain = {"healthy": 0.25, "broken": 0.0, "fixed": 0.5}[arm] + 0.125 * seed
rows = [
    {"step": 0, "reward": 0.5, "heldout/reward": 0.5, "decode_train/abs_delta_mean": 1e-7},
    {"step": 1, "reward": 0.5 + gain, "grad_norm": None},
    {"step": 2, "heldout/reward": 0.5 + gain},
]
for row in rows[:1] if dies else rows:
    with (folder / "metrics.jsonl").open("w" if row["step"] == 0 else "a") as file:
        file.write(json.dumps(row | {"seconds/step": 1.5}) + "\\n")
    print("step", row["step"], "of 2", flush=True)
if dies:
    sys.exit("<script>alert('no sinks')</script>\\u202e")
"""


@pytest.fixture(autouse=True)
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here starts an engine: it need not be there."""
    monkeypatch.setattr(trainer_run, "find_spec", lambda name: name)


class Tags(HTMLParser):
    """What is open, what was seen; no tag may close another's element."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def program(run: Run) -> list[str]:
        config = run.config.model_dump_json()
        words = [str(run.folder), run.arm, str(run.seed), config]
        return [sys.executable, "-S", "-c", STAND_IN, *words]

    monkeypatch.setattr(launch, "program", program)


def test_failed_runs_are_shown_and_tried_again_and_finished_ones_are_not(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(MismatchLabError, match=r"1 of 4 runs did not finish: broken-seed1"):
        compare(BASE, "healthy,broken", 2, out)
    first = (out / "order").read_text().split()
    assert first == ["healthy-seed0", "broken-seed0", "healthy-seed1", "broken-seed1"]
    _check_unfinished(out)

    (out / "runs" / "broken-seed1" / "mended").touch()
    assert compare(BASE, "healthy,broken", 2, out) == out
    assert (out / "order").read_text().split() == [*first, "broken-seed1"]
    found = _read(out)
    # Gains 0.25, 0.375 against 0, 0.125: both pairs differ by 0.25.
    assert found.differences["heldout/gain"]["broken"].ci95 == (-0.25, -0.25)
    assert {run.state for run in found.runs} == {"finished"}
    assert "did not finish" not in (out / "comparison.html").read_text(encoding="utf-8")


def _check_unfinished(out: Path) -> None:
    found = _read(out)
    assert [run.state for run in found.runs] == ["finished"] * 3 + ["unfinished"]
    assert found.baseline == "healthy"
    # Seeds 0 and 1 of healthy end at 0.75 and 0.875; broken has only seed 0, at 0.5.
    healthy, broken = (found.finals["heldout/reward"][arm] for arm in ("healthy", "broken"))
    assert (healthy.value, healthy.n) == (0.8125, 2)
    assert (broken.value, broken.n) == (0.5, 1)
    difference = found.differences["heldout/reward"]["broken"]
    assert (difference.value, difference.n) == (-0.25, 1)
    assert found.curves["reward"]["broken"].n == (2, 1)  # as far as each run came
    assert "grad_norm" not in found.finals  # never measured is not 0
    page = (out / "comparison.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.seen.count("script") == 1  # the page's own; what the run printed is text
    assert "&lt;script&gt;alert(&#39;no sinks&#39;)&lt;/script&gt;⟨U+202E⟩" in page
    assert "#0a0b0" not in page  # every colour became a variable of the theme
    assert "var(--arm-1)" in page
    assert "1 of 4 runs did not finish" in page


def _read(out: Path) -> Comparison:
    return Comparison.model_validate_json((out / "comparison.json").read_text(encoding="utf-8"))


def test_a_run_that_another_process_is_making_is_not_made_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(launch, "LOCK_WAIT_S", 0.0)
    (run,) = plan_runs(BASE, ("healthy",), 1, tmp_path)
    run.folder.mkdir(parents=True)
    with (run.folder / launch.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="Another process is at work"):
            compare(BASE, "healthy", 1, tmp_path)
    assert not run.metrics()


def test_a_mended_arm_is_also_held_against_the_one_it_mends(tmp_path: Path) -> None:
    compare(BASE, "healthy,broken,fixed", 1, tmp_path / "out")
    found = _read(tmp_path / "out")
    # Gains 0.25, 0 and 0.5.
    assert found.differences["heldout/gain"]["fixed"].value == 0.25
    assert {arm: e.value for arm, e in found.mended["heldout/gain"].items()} == {"fixed": 0.5}
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert "+0.500, n = 1 against broken" in page


def test_how_long_it_takes_is_said_before_and_after_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(BASE, "healthy", 2, tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    # 2 runs of 2 steps at 6 s.
    assert lines[1].startswith("4 steps are to be made in 2 runs, 1 at a time: roughly 24")
    first = next(i for i, line in enumerate(lines) if line.startswith("healthy-seed0  step"))
    # The stand-in's steps take 1.5 s; how many of its lines were read by then, is a race.
    assert "The first step took 1.50 s: about " in lines[first + 1]
    assert sum("The first step" in line for line in lines) == 1


@pytest.mark.parametrize("width", [80, 200])
def test_an_interval_stays_on_one_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    width: int,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    compare(BASE, "healthy,fixed", 2, tmp_path / "out")
    out = capsys.readouterr().out
    # 0.75 and 0.875: t(1) * 0.0625 = 0.794 to each side of 0.8125, cut off at 1.
    assert "[0.0184, 1.00], n = 2" in out


def test_of_another_model_it_is_not_guessed(tmp_path: Path) -> None:
    base = read_config(None, {"model": "another"})
    runs = plan_runs(base, ("healthy",), 3, tmp_path)
    assert before(runs, 2) == (
        "72 steps are to be made in 3 runs, 2 at a time; how long that takes is said after the "
        "first step."
    )
    runs[0].folder.mkdir(parents=True)
    (runs[0].folder / "metrics.jsonl").write_text('{"step": 0, "seconds/step": 10}\n')
    # 71 steps of 10 s by 2 at a time.
    assert before(runs, 2).endswith("about 5 min 55 s.")


def test_several_at_once(tmp_path: Path) -> None:
    compare(BASE, "healthy", 3, tmp_path / "out", workers=3)
    assert sorted((tmp_path / "out" / "order").read_text().split()) == [
        "healthy-seed0", "healthy-seed1", "healthy-seed2",
    ]  # fmt: skip


def test_what_cannot_be_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hf = read_config(None, {"rollout.engine": "hf"})
    with pytest.raises(InputError, match="routing-replay needs vLLM"):
        compare(hf, "healthy,bf16-routing-replay", 1, tmp_path / "out")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="torchrun"):
        compare(TrainConfig(), "healthy", 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_comparison_that_is_stopped_ends_what_it_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sleeps = "import time; print('step 1', flush=True); time.sleep(60)"
    monkeypatch.setattr(launch, "program", lambda _: [sys.executable, "-S", "-c", sleeps])
    runs = plan_runs(BASE, ("healthy", "broken"), 1, tmp_path)
    begun: list[str] = []

    def stop(run: Run, _line: str) -> None:
        begun.append(run.name)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # as Ctrl-C does it

    # A job that a shell put in the background is born ignoring Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            launch.launch(runs, 1, stop)
    finally:
        signal.signal(signal.SIGINT, before)
    assert begun == ["healthy-seed0"]
    # The lock is free again only when the process has ended.
    with (runs[0].folder / launch.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    ("workers", "asked", "given"),
    [(1, None, ""), (2, None, "PASSIVE"), (2, "ACTIVE", "ACTIVE")],
)
def test_threads_of_runs_side_by_side_give_up_their_cores(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    workers: int,
    asked: str | None,
    given: str,
) -> None:
    if asked is None:
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    else:
        monkeypatch.setenv("OMP_WAIT_POLICY", asked)
    says = "import os; print('policy', os.environ.get('OMP_WAIT_POLICY', ''))"
    monkeypatch.setattr(launch, "program", lambda _: [sys.executable, "-S", "-c", says])
    lines: list[str] = []
    runs = plan_runs(BASE, ("healthy",), 1, tmp_path)
    launch.launch(runs, workers, lambda _run, line: lines.append(line))
    assert lines == [f"policy {given}"]
