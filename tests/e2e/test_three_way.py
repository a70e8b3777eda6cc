"""The real vLLM, the real SGLang and the FSDP trainer in one report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mismatch_lab.scorecard.architectures import make

pytestmark = [
    pytest.mark.vllm, pytest.mark.sglang, pytest.mark.slow, pytest.mark.timeout(900)
]  # fmt: skip

PLUGIN = Path(__file__).with_name("plugins.py")
THREE = ("--engine", "vllm", "--engine", "sglang", "--trainer", "fsdp")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    make("llama", folder)
    return folder


def size(findings: dict[str, Any], edge: str) -> float:
    return float(findings["edges"][edge]["abs_delta_mean"]["value"])


@pytest.mark.long
def test_in_float32_nobody_stands_alone(diagnose: Any, llama: Path) -> None:
    found = diagnose(str(llama), *THREE, "--dtype", "float32", "--max-tokens", "32")
    assert found["verdict"]["status"] == "match", found["verdict"]["headline"]
    assert found["three_way"]["stands_alone"] == "none", found["three_way"]["why"]
    for edge in ("decode_second", "prefill_second", "second_train", "second_ref"):
        assert 0 < size(found, edge) < 1e-5
        # Whole distributions, too, but of what was sampled.
        assert ("kl_infer_train_exact" in found["edges"][edge]) == (edge != "decode_second")


@pytest.mark.long
def test_in_bfloat16_nobody_does(diagnose: Any, llama: Path) -> None:
    found = diagnose(str(llama), *THREE, "--dtype", "bfloat16")
    assert found["verdict"]["status"] == "numerics", found["verdict"]["headline"]
    assert found["three_way"]["stands_alone"] == "none", found["three_way"]["why"]


@pytest.mark.parametrize(
    ("engine", "alone", "status"),
    [
        ("sglang", "second", "match"),
        pytest.param("vllm", "infer", "mismatch", marks=pytest.mark.long),
    ],
)
def test_the_engine_with_another_tensor_stands_alone(
    diagnose: Any, llama: Path, engine: str, alone: str, status: str
) -> None:
    plugin = ("--engine-plugin", f"{engine}:{PLUGIN}:perturb_attention_output")
    options = ("--dtype", "float32", "--max-tokens", "32")
    found = diagnose(str(llama), *THREE, *plugin, *options)
    assert found["three_way"]["stands_alone"] == alone, found["three_way"]["why"]
    assert found["verdict"]["status"] == status
    by_itself = found["verdict"]["next_command"].endswith("--engine sglang")
    assert by_itself == (alone == "second")


def test_a_model_that_the_second_cannot_run_is_refused_before_anything_starts() -> None:
    command = [sys.executable, "-m", "mismatch_lab.cli", "diagnose", *THREE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "SGLang cannot run GptOssForCausalLM on a CPU" in " ".join(done.stderr.split())
    assert "started" not in done.stderr
