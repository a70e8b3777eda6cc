"""A monitor beside a loop: measures, alarms with their captures, and that it never minds."""

from __future__ import annotations

import json
import logging
import shlex
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mismatch_lab.captures.store import load_capture
from mismatch_lab.live import MismatchMonitor
from mismatch_lab.live.measure import measure_step, worst_and_others
from mismatch_lab.live.monitor import KEPT_ALARMS, KEPT_ROWS, WORST_ROWS
from mismatch_lab.live.steps import Observed
from mismatch_lab.run.recorded import read_record
from mismatch_lab.trainer.measure import edge_measures

IDS = np.array([[5, 6, 7, 8, 0], [5, 9, 4, 0, 0]])
MASK = np.array([[0, 0, 1, 1, 0], [0, 1, 1, 0, 0]])
LOGP = np.array([[0, 0, -1.0, -2.0, 0], [0, -3.0, -4.0, 0, 0]])
DELTA = np.array([[0, 0, 0.5, -0.5, 0], [0, 0.1, 0.3, 0, 0]])


def monitor(folder: Path, **more: Any) -> MismatchMonitor:
    return MismatchMonitor(folder, **{"model": "checkpoint", "dtype": "bfloat16", **more})


def watch(monitor: MismatchMonitor, steps: range, **given: Any) -> None:
    """Observe equal steps, one after another: none waits for another."""
    known = {"token_ids": IDS, "mask": MASK, "logp_infer": LOGP, "logp_train": LOGP + DELTA}
    for step in steps:
        monitor.observe(step, **{**known, **given})
        monitor.flush()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def measured(**more: Any) -> Any:
    return measure_step(Observed(3, IDS, MASK, LOGP, LOGP + DELTA, **more).copied())


def test_the_numbers_are_those_of_the_reference_trainer() -> None:
    infer, train = torch.tensor(LOGP), torch.tensor(LOGP + DELTA)
    expected = edge_measures("decode_train", infer, train, torch.tensor(MASK))
    assert measured().values == pytest.approx(expected, nan_ok=True)
    # |delta|: 0.5, 0.5, 0.1, 0.3
    assert expected["decode_train/abs_delta_mean"] == pytest.approx(0.35)
    assert measured().row_abs_delta.tolist() == pytest.approx([0.5, 0.2])


def test_measures_by_lag() -> None:
    found = measured(versions=(np.array([7, 4]), 8))
    values = found.values
    assert values["decode_train/lag_1/abs_delta_mean"] == pytest.approx(0.5)
    assert values["decode_train/lag_4/abs_delta_mean"] == pytest.approx(0.2)
    assert (values["decode_train/lag_4/n"], values["staleness/lag_mean"]) == (2, 2.5)
    assert found.seen.largest_lag == 4
    step = Observed(3, IDS, MASK, LOGP, LOGP + DELTA, versions=(np.array([7, 4]), 8))
    assert measure_step(step.copied(), 1).seen.fresh_abs_delta_mean == pytest.approx(0.5)


def test_what_a_token_without_a_number_does() -> None:
    broken = LOGP.copy()
    broken[0, 2] = np.nan
    found = measure_step(Observed(3, IDS, MASK, broken, LOGP + DELTA).copied())
    assert found.seen.dropped_share == 0.25
    assert found.seen.abs_delta_mean == pytest.approx((0.5 + 0.1 + 0.3) / 3)


def test_the_worst_and_others() -> None:
    errors = np.array([0.1, 5.0, 0.2, np.inf, 0.3, 0.0])
    chosen = worst_and_others(errors, 2, 4, seed=1)
    assert {1, 3} < set(chosen.tolist())
    assert len(chosen) == 4
    assert (np.diff(chosen) > 0).all()
    assert worst_and_others(errors, 2, 99, seed=1).tolist() == [0, 1, 2, 3, 4, 5]


def test_an_alarm_keeps_captures_and_says_the_command(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched = monitor(tmp_path / "out", rank=3, model="checkpoints/step-{step}")
    with caplog.at_level(logging.WARNING):
        watch(watched, range(5), temperature=0.7, versions=(0, 0))
        watched.close()
    # 0.35 nats is more than the 0.1 of bfloat16; three steps in a row.
    assert [(alarm.kind, alarm.step) for alarm in watched.alarms] == [("above-limit", 2)]
    folder = tmp_path / "out" / "alarm-00000002-above-limit-rank-3"
    command = f"mismatch-lab diagnose checkpoints/step-2 --captures {folder}"
    assert command in caplog.text
    assert "mean |delta| is more than numerics of this dtype do (0.35 nats" in caplog.text
    (line,) = lines(tmp_path / "out" / "alarms-rank-3.jsonl")
    assert (line["kind"], line["since"], line["command"]) == ("above-limit", 0, command)
    record = read_record((Path(shlex.split(command)[-1]),))
    assert record.captures["decode"].rows.n_rows == 2
    manifest = record.manifests["decode"]
    assert manifest.sampling is not None
    assert (manifest.model, manifest.sampling.temperature) == ("checkpoints/step-2", 0.7)
    assert manifest.options["alarm"] == "above-limit"
    assert [line["step"] for line in lines(tmp_path / "out" / "metrics-rank-3.jsonl")] == [
        *range(5)
    ]


def many_rows(n_rows: int) -> dict[str, NDArray[Any]]:
    """Rows of one answer token; the last twenty are the worst by far."""
    ids = np.tile([5, 6, 7], (n_rows, 1))
    mask = np.tile([0, 0, 1], (n_rows, 1))
    infer = np.tile([0.0, 0.0, -1.0], (n_rows, 1))
    train = infer - 0.2
    train[-20:] -= 3
    return {"token_ids": ids, "mask": mask, "logp_infer": infer, "logp_train": train}


def test_a_kept_step_is_bounded_and_has_the_worst_sequences(tmp_path: Path) -> None:
    watched = monitor(tmp_path)
    watch(watched, range(3), **many_rows(500))
    watched.close()
    (folder,) = tmp_path.glob("alarm-*")
    capture, manifest = load_capture(folder / "train")
    logp = capture.logp[capture.rows.sampled]
    assert capture.rows.n_rows == KEPT_ROWS
    assert manifest.options["worst_rows"] == WORST_ROWS
    assert np.count_nonzero(logp < -4) >= WORST_ROWS
    assert np.count_nonzero(logp > -2) >= 40  # and usual ones beside them


def test_captures_of_alarms_are_bounded(tmp_path: Path) -> None:
    watched = monitor(tmp_path)
    for start in range(0, 200 * (KEPT_ALARMS + 2), 200):
        watch(watched, range(start, start + 3))
        watch(watched, range(start + 3, start + 4), logp_train=LOGP + DELTA / 100)
    watched.close()
    assert len(watched.alarms) == KEPT_ALARMS + 2
    assert len(list(tmp_path.glob("alarm-*"))) == KEPT_ALARMS
    assert [line["captures"] is None for line in lines(tmp_path / "alarms-rank-0.jsonl")][-2:] == [
        True,
        True,
    ]


def test_without_token_ids_it_measures_and_alarms(tmp_path: Path) -> None:
    watched = monitor(tmp_path)
    watch(watched, range(3), token_ids=None)
    watched.close()
    assert [alarm.kind for alarm in watched.alarms] == ["above-limit"]
    assert not list(tmp_path.glob("alarm-*"))


def test_steps_can_be_recorded_whole_as_well(tmp_path: Path) -> None:
    watched = monitor(tmp_path, record_every=2)
    watch(watched, range(4), logp_train=LOGP + 1e-3)
    watched.close()
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [
        "step-00000000-rank-0",
        "step-00000002-rank-0",
    ]
    assert watched.alarms == []


def test_a_step_without_sampled_tokens_is_no_measurement(tmp_path: Path) -> None:
    watched = monitor(tmp_path)
    watch(watched, range(4), mask=np.zeros_like(MASK), versions=(0, 0))
    watched.close()
    first = lines(tmp_path / "metrics-rank-0.jsonl")[0]
    assert (first["decode_train/abs_delta_mean"], first["decode_train/n"]) == (None, 0)
    assert (watched.alarms, watched.left_out) == ([], 0)


@pytest.mark.parametrize("broken", [{"logp_train": LOGP[:, 1:]}, {"mask": object()}])
def test_a_fault_is_a_warning_once(tmp_path: Path, broken: dict[str, Any]) -> None:
    watched = monitor(tmp_path)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        watch(watched, range(2), **broken)
        watch(watched, range(2, 3))
        watched.close()
    assert [str(one.message)[:33] for one in seen] == ["mismatch-lab observes nothing of "]
    assert watched.left_out == 2
    assert [line["step"] for line in lines(tmp_path / "metrics-rank-0.jsonl")] == [2]


def test_a_full_disk_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = monitor(tmp_path)
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(watched._steps, "write", lambda *_: (_ for _ in ()).throw(full))
    with pytest.warns(UserWarning, match="training goes on: OSError"):
        watch(watched, range(5))
    watched.close()
    assert [alarm.kind for alarm in watched.alarms] == ["above-limit"]


def test_copying_a_batch_takes_milliseconds(tmp_path: Path) -> None:
    # 64 rows of 2,048: what the loop pays. 1 % of a step of one second is 10 ms.
    rng = np.random.default_rng(0)
    ids, mask = np.ones((64, 2048), np.int64), np.ones((64, 2048), bool)
    mask[:, 0] = False
    logp = -rng.random((64, 2048)).astype(np.float32)
    watched, taken = monitor(tmp_path), []
    for step in range(5):
        began = time.perf_counter()
        watched.observe(step, ids, mask, logp, logp + np.float32(0.01))
        taken.append(time.perf_counter() - began)
        time.sleep(0.1)
    watched.close()
    assert min(taken) < 0.01
