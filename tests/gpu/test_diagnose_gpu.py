"""`diagnose` with vLLM and FSDP2 on a CUDA GPU: `pytest -m gpu tests/gpu`.

Also runnable as a script where pytest is missing. It needs vLLM for CUDA in this interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

try:
    import pytest

    pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]
except ImportError:  # a GPU machine without an index
    pass


def diagnose(out: Path, *options: str, **environment: str) -> dict[str, Any]:
    """Findings of one run on the embedded model."""
    command = [sys.executable, "-m", "mismatch_lab.cli", "diagnose", *options]
    command += ["--out", str(out), "--json"]
    surroundings = os.environ | environment
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=surroundings)
    findings: dict[str, Any] = json.loads((out / "findings.json").read_text())
    return findings


FLOAT32 = ("--dtype", "float32", "--depth", "standard")


def test_float32_in_tf32_is_named(tmp_path: Path) -> None:
    """vLLM's Triton kernels multiply float32 in TF32 (cause `tf32-products`)."""
    verdict = diagnose(tmp_path / "run", *FLOAT32)["verdict"]
    assert verdict["status"] == "mismatch", verdict
    first = verdict["causes"][0]
    assert (first["id"], first["side"]) == ("tf32-products", "infer"), verdict


def test_float32_matches_or_names_its_floor(tmp_path: Path) -> None:
    """Told to keep all bits, they do; fused kernels may still keep a GPU above 1e-4."""
    # Kernels that were compiled without it are no use: they get a cache of their own.
    exact = {"TRITON_F32_DEFAULT": "ieee", "TRITON_CACHE_DIR": str(tmp_path / "triton")}
    findings = diagnose(tmp_path / "run", *FLOAT32, **exact)
    assert findings["verdict"]["status"] in ("match", "numerics"), findings["verdict"]


def test_bfloat16_is_numerics(tmp_path: Path) -> None:
    findings = diagnose(tmp_path / "run", "--dtype", "bfloat16", "--depth", "standard")
    assert findings["verdict"]["status"] == "numerics", findings["verdict"]
    assert findings["localisation"]["first_divergent_module"] is None


def test_dropped_sinks_are_located(tmp_path: Path) -> None:
    plugin = Path(__file__).parents[1] / "e2e" / "plugins.py"
    options = ("--trainer-plugin", f"{plugin}:drop_sinks", "--depth", "standard")
    findings = diagnose(tmp_path / "run", *options)
    assert findings["localisation"]["first_divergent_module"] == "model.layers.0.self_attn"
    assert findings["localisation"]["side"] == "train"


if __name__ == "__main__":
    for test in (
        test_float32_in_tf32_is_named,
        test_float32_matches_or_names_its_floor,
        test_bfloat16_is_numerics,
        test_dropped_sinks_are_located,
    ):
        with tempfile.TemporaryDirectory() as scratch:
            test(Path(scratch))
            print(f"ok {test.__name__}")
