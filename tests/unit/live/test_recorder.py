"""What a training loop keeps, and that it never minds."""

from __future__ import annotations

import re
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mismatch_lab.captures.store import load_capture
from mismatch_lab.live import Recorder
from mismatch_lab.run.recorded import read_record

IDS = np.array([[5, 6, 7, 8, 0], [5, 9, 4, 0, 0]])
MASK = np.array([[0, 0, 1, 1, 0], [0, 1, 1, 0, 0]])
LOGP = np.array([[0, 0, -1.0, -2.0, 0], [0, -3.0, -4.0, 0, 0]])


def recorder(folder: Path, **more: Any) -> Recorder:
    return Recorder(folder, model="checkpoint", dtype="bfloat16", **more)


def test_a_step_is_what_diagnose_reads(tmp_path: Path) -> None:
    kept = recorder(tmp_path, rank=3, engine="vllm", trainer="torch")
    kept.record(7, IDS, MASK, LOGP, LOGP - 0.5, temperature=0.7, versions=(5, 7))
    kept.close()
    record = read_record((tmp_path / "step-00000007-rank-3",))
    infer, train = record.captures["decode"], record.captures["train"]
    sampled = infer.rows.sampled
    assert infer.rows.token_ids.tolist() == [5, 6, 7, 8, 5, 9, 4]
    assert infer.logp[sampled].tolist() == [-1, -2, -3, -4]
    assert train.logp[sampled].tolist() == [-1.5, -2.5, -3.5, -4.5]
    manifest = record.manifests["decode"]
    assert manifest.sampling is not None
    assert (manifest.engine, manifest.sampling.temperature) == ("vllm", 0.7)
    assert manifest.options == {"step": 7, "weight_version_infer": 5, "weight_version_train": 7}
    assert record.manifests["train"].engine_version == torch.__version__


def test_how_the_trainer_packed_is_of_its_capture_alone(tmp_path: Path) -> None:
    """The first sequence has no sampled token and is left out; the second keeps its place."""
    kept = recorder(tmp_path)
    ids, logp = np.stack([IDS[0], *IDS]), np.stack([LOGP[0], *LOGP])
    mask = np.stack([MASK[0] * 0, *MASK])
    kept.record(1, ids, mask, logp, logp - 0.5, packed_rows=torch.tensor([4, 4, 6]))
    kept.close()
    record = read_record((tmp_path / "step-00000001-rank-0",))
    assert record.captures["decode"].packs is None
    packs = record.captures["train"].packs
    assert packs is not None
    assert packs.tolist() == [[4, 1], [6, 0]]


def test_tensors_in_half_precision_are_copied_before_the_loop_changes_them(tmp_path: Path) -> None:
    kept = recorder(tmp_path)
    logp = torch.tensor(LOGP, dtype=torch.bfloat16, requires_grad=True)
    ids = torch.tensor(IDS)
    kept.record(0, ids, torch.tensor(MASK), logp, logp - 1)
    ids.zero_()
    kept.close()
    capture, _ = load_capture(tmp_path / "step-00000000-rank-0" / "decode")
    assert capture.rows.token_ids.tolist() == [5, 6, 7, 8, 5, 9, 4]


def test_only_every_so_many_steps(tmp_path: Path) -> None:
    kept = recorder(tmp_path, every=2)
    for step in (1, 2, 3):
        kept.record(step, IDS, MASK, LOGP, LOGP)
    kept.close()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002-rank-0"]


def test_the_oldest_steps_make_room_and_other_ranks_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "step-00000000-rank-1").mkdir()
    for step in (1, 2, 3):  # one at a time: no step waits for another
        one = recorder(tmp_path, keep_gib=0.0)
        one.record(step, IDS, MASK, LOGP, LOGP)
        one.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-00000000-rank-1", "step-00000003-rank-0"]


@pytest.mark.parametrize(
    "broken",
    [
        {"mask": np.zeros_like(MASK)},  # no sampled token
        {"logp_train": LOGP[:, 1:]},
        {"token_ids": "no array"},
    ],
)
def test_a_fault_is_a_warning_once_and_nothing_half_written(
    tmp_path: Path, broken: dict[str, Any]
) -> None:
    kept = recorder(tmp_path)
    given = {"token_ids": IDS, "mask": MASK, "logp_infer": LOGP, "logp_train": LOGP, **broken}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for step in (0, 1):
            kept.record(step, **given)
        kept.close()
    assert [str(one.message)[:32] for one in seen] == ["mismatch-lab records nothing of "]
    assert kept.left_out == 2
    assert list(tmp_path.iterdir()) == []


def test_warnings_that_are_errors_do_not_stop_the_loop(tmp_path: Path) -> None:
    kept = recorder(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept.record(0, IDS, MASK, LOGP, object())
        kept.record(1, IDS, MASK, LOGP, LOGP)
        kept.close()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001-rank-0"]


def test_the_lines_of_the_docs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[3] / "docs" / "live.md").read_text(encoding="utf-8")
    watched, recorded = re.findall(r"```python\n(.*?)```", page, re.S)
    monkeypatch.chdir(tmp_path)
    given = {"step": 7, "rank": 0, "token_ids": IDS, "mask": MASK}
    given |= {"learning_rate": 1e-6, "sampled": 6, "trained": 7}
    loop: dict[str, Any] = {**given, "logp_infer": LOGP, "logp_train": LOGP - 1}
    exec(watched, loop)
    exec(recorded, loop)
    loop["monitor"].close()
    loop["recorder"].close()
    assert '"decode_train/lag_1/n": 4' in (tmp_path / "mismatch/metrics-rank-0.jsonl").read_text()
    assert (tmp_path / "recorded" / "step-00000007-rank-0" / "train").is_dir()


def test_a_writer_that_is_behind_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    kept = recorder(tmp_path)
    write = kept._write
    monkeypatch.setattr(kept._background, "_work", lambda step: (go.wait(10), write(step)))
    for step in range(6):  # one is being written, two wait
        kept.record(step, IDS, MASK, LOGP, LOGP)
    assert kept.left_out in (3, 4)
    go.set()
    kept.close()
    assert len(list(tmp_path.glob("step-*"))) == 6 - kept.left_out
