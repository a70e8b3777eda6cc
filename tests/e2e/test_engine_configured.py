"""The engine as people run it: vLLM's own defaults, a file that configures it, prompts in chunks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mismatch_lab.engines.checkpoint import checkpoint_dir

Diagnose = Callable[..., dict[str, Any]]

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


def size(findings: dict[str, Any], edge: str) -> float:
    return float(findings["edges"][edge]["abs_delta_mean"]["value"])


def causes(findings: dict[str, Any]) -> list[str]:
    return [cause["id"] for cause in findings["verdict"]["causes"]]


def test_penalties_that_the_checkpoint_asks_for_are_named_without_an_option(
    diagnose: Diagnose, tmp_path: Path
) -> None:
    """vLLM takes them from generation_config.json by itself; raw log-probs do not show them."""
    model = tmp_path / "model"
    shutil.copytree(checkpoint_dir(), model)
    file = model / "generation_config.json"
    asked = json.loads(file.read_text()) | {"repetition_penalty": 1.3}
    file.write_text(json.dumps(asked))
    options = (str(model), "--dtype", "float32", "--max-tokens", "48")
    findings = diagnose(*options, budget_s=60)
    assert findings["verdict"]["status"] == "mismatch", findings["verdict"]["headline"]
    assert causes(findings)[0] == "sampling-penalties"
    file = tmp_path / "serve.yaml"
    file.write_text("generation-config: vllm\nport: 8000\n")
    findings = diagnose(*options, "--engine-config", str(file))
    assert findings["verdict"]["status"] == "match", findings["verdict"]["headline"]


def test_a_cache_in_fp8_from_a_file_is_named(diagnose: Diagnose, tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("kv-cache-dtype: fp8\n")
    options = ("--dtype", "float32", "--max-tokens", "32", "--engine-config", str(file))
    findings = diagnose(*options, budget_s=60)
    assert findings["verdict"]["status"] == "mismatch", findings["verdict"]["headline"]
    assert causes(findings)[0] == "kv-cache-quantisation"


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
