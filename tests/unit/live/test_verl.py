"""verl's hook: on objects made as verl's are, and on verl's own functions where it is installed.

verl cannot stand beside this project's vLLM and transformers. Where it is installed apart
(`pip install --target FOLDER --no-deps verl==0.9.1`, with what it imports), the last tests run by
`PYTHONPATH=FOLDER pytest tests/unit/live/test_verl.py`, through its own plugin loader.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mismatch_lab.live.adapters.from_environment import FOLDER, monitor_from_environment
from mismatch_lab.live.adapters.verl import observed, watched
from mismatch_lab.run.recorded import read_record

ROOT = Path(__file__).parents[3]

# Two rows: prompts [7, 8] and [9], answers of 3 and 2 tokens, of which row 0's second is a tool's.
FIELDS = {
    "prompts": torch.tensor([[7, 8], [0, 9]]),
    "responses": torch.tensor([[1, 2, 3], [4, 5, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 0]]),
    "response_mask": torch.tensor([[1, 0, 1], [1, 1, 0]]),
    "rollout_log_probs": torch.tensor([[-1.0, 0.0, -2.0], [-3.0, -4.0, 0.0]]),
    "old_log_probs": torch.tensor([[-1.5, -9.0, -2.5], [-3.5, -4.5, -9.0]]),
}
ROLLOUT = {"temperature": 0.7, "top_p": 0.9, "logprobs_mode": "processed_logprobs"}


def trainer_of(**more: Any) -> Any:
    """What the hook asks of a trainer: its step and its settings."""
    settings = SimpleNamespace(model=SimpleNamespace(path="checkpoint"), rollout=ROLLOUT)
    return SimpleNamespace(
        global_steps=12, config=SimpleNamespace(actor_rollout_ref=settings), **more
    )


class Trainer:
    """Calls the metrics as verl's trainers do: from a method, by a name of its module."""

    def __init__(self, metrics: Any) -> None:
        self.metrics, self.global_steps = metrics, 12
        self.config = trainer_of().config

    def fit_step(self, batch: Any) -> Any:
        return self.metrics(batch)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that the variable names."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "out"))
    monitor_from_environment.cache_clear()
    yield tmp_path / "out"
    monitor_from_environment.cache_clear()


def test_rows_are_prompt_and_response_without_padding() -> None:
    data = SimpleNamespace(batch=FIELDS)
    step = observed(data, data, 12, ROLLOUT).copied()
    assert step.token_ids is not None
    assert step.token_ids.tolist() == [[7, 8, 1, 2, 3], [9, 4, 5, 0, 0]]
    assert step.mask.tolist() == [
        [False, False, True, False, True],
        [False, True, True, False, False],
    ]
    assert step.logp_infer[step.mask].tolist() == [-1, -2, -3, -4]
    assert step.logp_train[step.mask].tolist() == [-1.5, -2.5, -3.5, -4.5]
    assert (step.number, step.sampling.temperature, step.sampling.top_p) == (12, 0.7, 0.9)


def test_a_step_is_observed_and_the_metrics_are_what_they_were(asked: Path) -> None:
    trainer = Trainer(watched(lambda data: {"theirs": len(data.batch)}))
    for _ in range(3):
        assert trainer.fit_step(SimpleNamespace(batch=FIELDS)) == {"theirs": 6}
        monitor_from_environment("verl", 0, "checkpoint").flush()
        trainer.global_steps += 1
    (folder,) = asked.glob("alarm-*")  # 0.5 nats
    record = read_record((folder,))
    assert folder.name == "alarm-00000014-above-limit-rank-0"
    assert record.captures["decode"].rows.token_ids.tolist() == [7, 8, 1, 2, 3, 9, 4, 5]
    assert record.manifests["train"].model == "checkpoint"


def test_a_fault_is_said_once_and_the_metrics_come_all_the_same(
    asked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    metrics = watched(lambda data: {"theirs": 1})
    for _ in range(2):
        assert metrics(SimpleNamespace(batch=FIELDS)) == {"theirs": 1}  # called by no trainer
    said = capfd.readouterr().err
    assert said.count("mismatch-lab does not watch this run of verl") == 1
    assert "was not called by a trainer of verl" in said


def in_process(code: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run with this tree's entry points, as an installed package has them."""
    info = tmp_path / "site" / "mismatch_lab-9.9.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mismatch-lab\nVersion: 9.9\n")
    listed = "[verl.plugins]\nmismatch_lab = mismatch_lab.live.adapters.verl\n"
    (info / "entry_points.txt").write_text(listed)
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path, "VERL_USE_EXTERNAL_PLUGINS": "mismatch_lab"}
        | environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )


def test_the_entry_point_is_the_one_that_is_installed() -> None:
    assert (
        '[project.entry-points."verl.plugins"]\nmismatch_lab = "mismatch_lab.live.adapters.verl"'
        in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    )


def test_without_the_variable_nothing_happens_and_nothing_heavy_is_imported(tmp_path: Path) -> None:
    done = in_process(
        """
        import sys
        import mismatch_lab.live.adapters.verl
        print([name for name in ("torch", "verl", "transformers", "pandas") if name in sys.modules])
        """,
        tmp_path,
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


REAL = pytest.mark.skipif(find_spec("verl") is None, reason="verl is not installed beside this")


@REAL
@pytest.mark.timeout(300)
def test_verls_own_trainer_of_v1_is_watched(tmp_path: Path) -> None:
    """Its loader, its `_compute_old_log_prob` and its metrics; the transfer queue is a dict."""
    done = in_process(
        """
        import json, sys
        from types import SimpleNamespace
        import verl, torch, transfer_queue
        from tensordict import TensorDict
        from verl.trainer.ppo.v1 import trainer_base as base

        nested = lambda rows: torch.nested.as_nested_tensor(rows, layout=torch.jagged)
        t = torch.tensor
        held = {
            "prompts": nested([t([7, 8]), t([9])]),
            "responses": nested([t([1, 2, 3]), t([4, 5])]),
            "response_mask": nested([t([1, 0, 1]), t([1, 1])]),
            "rollout_log_probs": nested([t([-1.0, 0.0, -2.0]), t([-3.0, -4.0])]),
            # Of the whole row, each of the next token: verl shifts them itself.
            "log_probs": nested([t([0.0, -1.5, -9.0, -2.5, 0.0]), t([-3.5, -4.5, 0.0])]),
            "entropy": nested([torch.zeros(5), torch.zeros(3)]),
        }
        asked = []
        def get(keys, partition_id, select_fields):
            asked.append(select_fields)
            return TensorDict({name: held[name] for name in select_fields}, batch_size=2)
        transfer_queue.kv_batch_get = get
        transfer_queue.kv_batch_put = lambda keys, partition_id, fields: SimpleNamespace(
            keys=keys, partition_id=partition_id)
        rollout = {"temperature": 0.7, "calculate_log_probs": True}
        class Settings(dict):
            __getattr__ = dict.get
        actor = Settings(loss_agg_mode="token-mean", loss_scale_factor=None)
        config = Settings(algorithm=Settings(), actor_rollout_ref=Settings(
            rollout=Settings(rollout), actor=actor, model=Settings(path="checkpoint")))
        workers = SimpleNamespace(compute_log_prob=lambda batch: batch.keys)
        trainer = SimpleNamespace(config=config, global_steps=5, actor_rollout_wg=workers)
        class Batch(SimpleNamespace):
            def __len__(self):
                return 2
        batch = Batch(keys=["a", "b"], partition_id="train", extra_info={})
        for _ in range(3):
            metrics = {}
            base.PPOTrainer._compute_old_log_prob(trainer, batch, metrics)
            trainer.global_steps += 1
            import time; time.sleep(1)
        print(json.dumps([verl.__version__, metrics["training/rollout_probs_diff_valid"]]))
        """,
        tmp_path,
        **{FOLDER: str(tmp_path / "out")},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["0.9.1", 1]
    assert "mismatch-lab watches verl and writes to" in done.stderr
    (folder,) = (tmp_path / "out").glob("alarm-*")
    record = read_record((folder,))
    infer, train = record.captures["decode"], record.captures["train"]
    assert infer.rows.token_ids.tolist() == [7, 8, 1, 2, 3, 9, 4, 5]
    sampled = infer.rows.sampled
    assert infer.logp[sampled].tolist() == [-1, -2, -3, -4]
    assert train.logp[sampled].tolist() == [-1.5, -2.5, -3.5, -4.5]
    assert record.manifests["decode"].options["step"] == 7


@REAL
@pytest.mark.timeout(300)
def test_verls_own_metrics_of_a_dataproto_are_watched(tmp_path: Path) -> None:
    done = in_process(
        """
        from types import SimpleNamespace
        import verl, torch
        from verl import DataProto
        from verl.utils.debug.metrics import calculate_debug_metrics
        from tests_fields import FIELDS, trainer_of
        class Trainer:
            def __init__(self):
                self.__dict__.update(vars(trainer_of()))
            def step(self, batch):
                return calculate_debug_metrics(batch)
        found = Trainer().step(DataProto.from_dict(tensors=FIELDS))
        print(found["training/rollout_probs_diff_valid"])
        """,
        with_fields(tmp_path),
        **{FOLDER: str(tmp_path / "out")},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1"
    line = json.loads((tmp_path / "out" / "metrics-rank-0.jsonl").read_text())
    assert line["decode_train/abs_delta_mean"] == pytest.approx(0.5)


def with_fields(folder: Path) -> Path:
    """This file under a name that a process can import."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "tests_fields.py").write_text(Path(__file__).read_text(encoding="utf-8"))
    return folder
