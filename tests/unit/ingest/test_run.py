"""Steps, samples, how it was sampled, where it is written, and that it is whole or not there."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import dump_writers as w
import numpy as np
import pytest

from mismatch_lab.captures.store import load_capture
from mismatch_lab.errors import InputError
from mismatch_lab.ingest import run as running
from mismatch_lab.ingest import write
from mismatch_lab.ingest.files import parse_steps
from mismatch_lab.ingest.report import Report
from mismatch_lab.ingest.run import IngestRequest, ingest
from mismatch_lab.schema.events import Progressed, StageBegan

FLAGS = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}


def done(path: Path, out: Path, name: str = "nemo-rl", **more: Any) -> Report:
    return ingest(IngestRequest(name, path, out, **{"flags": FLAGS, **more}), lambda _event: None)


def counted(n: int) -> w.Rows:
    """So many rows; row i has the token ids 1 and i + 2."""
    nan, logp = np.float32(np.nan), np.float32(-1)
    return [
        w.Written([1, i + 2], [False, True], np.array([nan, logp]), np.array([nan, logp * 2]))
        for i in range(n)
    ]


@pytest.fixture
def steps(rows: w.Rows, tmp_path: Path) -> Path:
    """Steps 2, 9 and 10, in this order, as numbers and not as text."""
    for step in (2, 9, 10):
        w.nemo_rl(tmp_path / "dump", rows, step=step)
    return tmp_path / "dump"


def test_several_steps_are_a_record_each(steps: Path, tmp_path: Path) -> None:
    report = done(steps, tmp_path / "out")
    assert [one.folder for one in report.steps] == [
        "step-00000002",
        "step-00000009",
        "step-00000010",
    ]
    _, manifest = load_capture(tmp_path / "out/step-00000010/train")
    assert manifest.options["step"] == 10


@pytest.mark.parametrize(
    ("text", "chosen"), [("2:10", [2, 9]), ("10", [10]), ("2, 9:11", [2, 9, 10]), ("0:3", [2])]
)
def test_steps_are_chosen(text: str, chosen: list[int], steps: Path, tmp_path: Path) -> None:
    assert [one.step for one in done(steps, tmp_path / "out", steps=text).steps] == chosen


def test_steps_that_are_none(steps: Path, tmp_path: Path) -> None:
    for text in ("a", "3:", ":3", "-1", "1,,2", "1e9", ""):
        with pytest.raises(InputError, match="no list of steps"):
            parse_steps(text)
    with pytest.raises(InputError, match="none of --steps") as refused:
        done(steps, tmp_path / "out", steps="3:9")
    assert "It has 3, from 2 to 10." in str(refused.value)


def test_one_step_is_the_record_itself(steps: Path, tmp_path: Path) -> None:
    done(steps, tmp_path / "out", steps="9")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "decode",
        "ingest.json",
        "train",
    ]


def sampled_ids(tmp_path: Path, seed: int, n: int = 5) -> list[int]:
    out = tmp_path / f"out-{seed}-{n}-{time.monotonic_ns()}"
    report = done(tmp_path / "dump", out, sample=n, seed=seed)
    assert (report.steps[0].rows, report.steps[0].of_rows) == (n, 40)
    capture, _ = load_capture(out / "decode")
    return capture.rows.token_ids[1::2].tolist()


def test_a_sample_is_of_the_seed_and_in_order(tmp_path: Path) -> None:
    w.nemo_rl(tmp_path / "dump", counted(40))
    first = sampled_ids(tmp_path, 0)
    assert first == sampled_ids(tmp_path, 0) == sorted(set(first))
    assert first != sampled_ids(tmp_path, 1)


def test_every_row_has_the_same_chance() -> None:
    # 400 samples of 2 of 10 rows: each is expected 80 times, with a deviation of 8.
    hits = np.zeros(10)
    for seed in range(400):
        kept = write.StepRows(None, 2, seed)
        for i in range(10):
            one = np.array([1, i], np.int32)
            logp = np.zeros(2, np.float32)
            kept.add(write.Chosen(one, np.array([False, True]), logp, logp, ()))
        for _, row in kept.rows:
            hits[row.token_ids[1]] += 1
    assert hits.sum() == 800
    assert (abs(hits - 80) < 32).all()


def test_a_step_that_is_too_large_asks_for_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    w.nemo_rl(tmp_path / "dump", counted(40))
    monkeypatch.setattr(write, "MOST_TOKENS", 20)
    with pytest.raises(InputError, match="Step 7 has more than 20 tokens") as refused:
        done(tmp_path / "dump", tmp_path / "out")
    assert "--sample" in str(refused.value)
    assert len(sampled_ids(tmp_path, 0, 10)) == 10


def test_what_the_dump_does_not_say_is_asked_for(steps: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--top-p, --top-k, --min-p, --logprobs missing") as asked:
        done(steps, tmp_path / "out", flags={"temperature": 0.7})
    assert "--temperature 1 --top-p 1 --top-k 0 --min-p 0 --logprobs processed" in str(asked.value)
    # Raw and processed are the same where nothing is done to the logits, and only there.
    done(steps, tmp_path / "plain", flags={**FLAGS, "top_k": -1})
    for changed in ({"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 20}, {"min_p": 0.1}):
        with pytest.raises(InputError, match="--logprobs missing"):
            done(steps, tmp_path / "out", flags={**FLAGS, **changed})
    flags = {**FLAGS, "temperature": 0.7, "top_k": 20, "logprobs": "raw"}
    done(steps, tmp_path / "raw", flags=flags, steps="2")
    _, manifest = load_capture(tmp_path / "raw/decode")
    assert manifest.sampling is not None
    assert (manifest.sampling.temperature, manifest.logprob_space) == (0.7, "raw")
    assert manifest.options["top_k"] == 20


@pytest.mark.parametrize(
    "changed",
    [{"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"min_p": -1.0}, {"top_k": -2}],
)
def test_sampling_out_of_range(changed: dict[str, float], steps: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="out of range"):
        done(steps, tmp_path / "out", flags={**FLAGS, "logprobs": "raw", **changed})


def test_a_step_that_contradicts_the_file(rows: w.Rows, steps: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is of step 9, and --step is 3"):
        done(steps, tmp_path / "out", steps="9", step=3)
    done(w.csv_(tmp_path / "t", rows), tmp_path / "out", "csv", step=3)
    _, manifest = load_capture(tmp_path / "out/decode")
    assert manifest.options["step"] == 3


def test_a_file_that_was_changed_just_now_is_left_out(
    rows: w.Rows, steps: Path, tmp_path: Path
) -> None:
    os.utime(steps / "train_data_step10.jsonl")
    report = done(steps, tmp_path / "out")
    assert [one.step for one in report.steps] == [2, 9]
    assert report.counts["files left out (still being written)"] == 1
    with pytest.raises(InputError, match="still being written"):
        done(steps / "train_data_step10.jsonl", tmp_path / "other")
    done(w.csv_(tmp_path / "table", rows), tmp_path / "table-out", "csv")  # no loop writes it


def test_a_folder_without_such_files_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, looked_for in (
        ("nemo-rl", "train_data_step*.jsonl"),
        ("prime-rl", "token_exports/step_*/rank_*.jsonl"),
        ("slime", "train_data/*.pt"),
        ("skyrl", "global_step_*_training_input.pkl"),
        ("csv", "*.csv"),
    ):
        with pytest.raises(InputError, match="holds no") as refused:
            done(tmp_path / "empty", tmp_path / "out", name)
        assert looked_for in str(refused.value)
    with pytest.raises(InputError, match="does not exist"):
        done(tmp_path / "nowhere", tmp_path / "out")


def test_two_runs_are_not_one(rows: w.Rows, tmp_path: Path) -> None:
    w.nemo_rl(tmp_path / "logs/exp_001", rows)
    w.nemo_rl(tmp_path / "logs/exp_002", rows)
    with pytest.raises(InputError, match="holds several runs"):
        done(tmp_path / "logs", tmp_path / "out")
    done(tmp_path / "logs/exp_002", tmp_path / "out")


def test_only_an_earlier_ingest_is_written_over(steps: Path, tmp_path: Path) -> None:
    done(steps, tmp_path / "out")
    with pytest.raises(InputError, match="already exists") as refused:
        done(steps, tmp_path / "out", steps="9")
    assert "--overwrite" in str(refused.value)
    done(steps, tmp_path / "out", steps="9", overwrite=True)
    assert (tmp_path / "out/decode").is_dir()
    assert not (tmp_path / "out/step-00000009").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    for out in (tmp_path / "mine", steps, tmp_path):
        with pytest.raises(InputError):
            done(steps, out, overwrite=True)
    assert (tmp_path / "mine/thesis.txt").exists()


def test_what_fails_midway_leaves_what_was_there(
    rows: w.Rows, steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(steps, tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))

    def interrupted(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "_put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        done(steps, tmp_path / "out", steps="2", overwrite=True)
    monkeypatch.undo()
    (steps / "train_data_step10.jsonl").write_text("{")
    w.old(steps / "train_data_step10.jsonl")
    with pytest.raises(InputError):  # after two whole steps
        done(steps, tmp_path / "out", overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_progress_is_told_in_bytes(tmp_path: Path) -> None:
    w.nemo_rl(tmp_path / "dump", counted(40))
    events: list[dict[str, Any]] = []
    ingest(IngestRequest("nemo-rl", tmp_path / "dump", tmp_path / "out", FLAGS), events.append)
    size = (tmp_path / "dump/train_data_step7.jsonl").stat().st_size
    assert isinstance(events[0], StageBegan)
    assert events[-1] == Progressed(size, size)


def test_the_report_is_on_disk(steps: Path, tmp_path: Path) -> None:
    report = done(steps, tmp_path / "out", mask="loss")
    assert Report.model_validate_json((tmp_path / "out/ingest.json").read_text()) == report
    assert (report.format, report.mask, len(report.steps)) == ("nemo-rl", "loss", 3)
