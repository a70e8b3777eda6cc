"""The engine as people run it: vLLM's defaults, a file that configures it, prompts in chunks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mismatch_lab.checkpoints.config import checkpoint_dir

Diagnose = Callable[..., dict[str, Any]]

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


def size(findings: dict[str, Any], edge: str) -> float:
    return float(findings["edges"][edge]["abs_delta_mean"]["value"])


def causes(findings: dict[str, Any]) -> list[str]:
    return [cause["id"] for cause in findings["verdict"]["causes"]]


@pytest.fixture
def with_penalties(tmp_path: Path) -> Path:
    """The embedded model, whose generation_config.json asks for a repetition penalty."""
    model = tmp_path / "model"
    shutil.copytree(checkpoint_dir(), model)
    file = model / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"repetition_penalty": 1.3}))
    return model


def test_penalties_that_the_checkpoint_asks_for_are_named_without_an_option(
    diagnose: Diagnose, with_penalties: Path
) -> None:
    """vLLM takes them by itself; its raw log-probs do not show them, the drawn tokens do."""
    options = (str(with_penalties), "--dtype", "float32", "--max-tokens", "48")
    findings = diagnose(*options, budget_s=60)
    assert findings["verdict"]["status"] == "mismatch", findings["verdict"]["headline"]
    assert causes(findings)[0] == "sampling-penalties"


def test_a_file_that_leaves_them_out_is_heeded(
    diagnose: Diagnose, with_penalties: Path, tmp_path: Path
) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("generation-config: vllm\nport: 8000\n")
    options = ("--dtype", "float32", "--max-tokens", "32", "--engine-config", str(file))
    findings = diagnose(str(with_penalties), *options)
    assert findings["verdict"]["status"] == "match", findings["verdict"]["headline"]


@pytest.mark.long
def test_prompts_in_chunks_are_held_against_the_engines_own_eager_code(
    diagnose: Diagnose,
) -> None:
    """No hook sees a whole prompt there: the engine is started a second time for them."""
    chunks = [f"--engine-arg={name}" for name in (
        "enable_chunked_prefill=true", "max_num_batched_tokens=64", "max_num_seqs=16",
    )]  # fmt: skip
    findings = diagnose("--dtype", "float32", "--depth", "standard", "--max-tokens", "24", *chunks)
    assert findings["verdict"]["status"] == "match", findings["verdict"]["headline"]
    assert findings["localisation"]["per_module"], "hidden states of the eager start"
    for edge in ("decode_prefill", "decode_eager", "prefill_eager"):
        assert 0 <= size(findings, edge) < 1e-5


def test_a_trainer_as_fsdp_users_have_it_is_no_mismatch(diagnose: Diagnose) -> None:
    """float32 masters, autocast, and an update's forward through checkpointed layers."""
    options = [f"--trainer-arg={name}" for name in (
        "master_dtype=float32", "autocast=true", "gradient_checkpointing=true",
    )]  # fmt: skip
    findings = diagnose("--engine", "hf", "--dtype", "bfloat16", "--depth", "quick", *options)
    # With AMX autocast rounds as the engine does: 1e-5 nats.
    assert findings["verdict"]["status"] in ("match", "numerics"), findings["verdict"]["headline"]
    assert size(findings, "train_train.train_mode") == 0
    assert ">gradient_checkpointing</code>" in (findings["out"] / "report.html").read_text()
