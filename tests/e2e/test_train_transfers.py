"""Trainings with real vLLM at a learning rate of RL, in bfloat16, where a CPU engine packs every
linear: what arrived is not sent twice, and what did not is found in the same step.
"""

from pathlib import Path
from typing import Any

import pytest

from mismatch_lab.trainer.config import read_config
from mismatch_lab.trainer.loop import train
from mismatch_lab.trainer.metrics import read_metrics
from mismatch_lab.trainer.rollout import Transfer
from mismatch_lab.trainer.rollout_vllm import VllmRollout

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

SETTINGS: dict[str, Any] = {
    "dtype": "bfloat16", "eval_every": 0, "checkpoint_every": 0, "data.n_heldout": 4,
    "rollout.prompts": 8, "rollout.group": 4, "rollout.new_tokens": 24, "optim.lr": 1e-6,
    "optim.warmup_steps": 0,
}  # fmt: skip
TENSORS = 71


def trained(out: Path, steps: int) -> list[dict[str, Any]]:
    """Lines of the steps."""
    train(read_config(None, SETTINGS | {"steps": steps}), out)
    return read_metrics(out)[:steps]


def test_what_arrived_restarts_no_engine(tmp_path: Path) -> None:
    lines = trained(tmp_path, 4)
    assert [line["sync/restarted"] for line in lines] == [0] * 4
    assert {(x["sync/tensors"], x["sync/compared"], x["sync/stale"]) for x in lines} == {
        (TENSORS, TENSORS, 0)
    }
    assert any(line["rows_used"] > 0 for line in lines), "nobody learnt: nothing was transferred"


def test_a_transfer_that_did_nothing_is_found_by_its_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The engine looks at what it holds, and has taken nothing.
    monkeypatch.setattr(VllmRollout, "transfer", VllmRollout.verify)
    lines = trained(tmp_path, 1)
    learnt = [line["rows_used"] > 0 for line in lines]
    assert any(learnt)
    assert [line["sync/restarted"] == 1 for line in lines] == learnt
    assert [line["sync/stale"] > 0 for line in lines] == learnt


def test_and_by_its_rows_where_the_engine_says_that_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VllmRollout, "transfer", lambda self, folder: Transfer(TENSORS, TENSORS))
    lines = trained(tmp_path, 1)
    learnt = [line["rows_used"] > 0 for line in lines]
    assert any(learnt)
    assert [line["sync/restarted"] == 1 for line in lines] == learnt
    assert "old weights" in "".join(line.get("sync/why_restarted", "") for line in lines)
