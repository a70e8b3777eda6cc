"""Engines as they run by themselves, on a CUDA GPU: `pytest -m gpu tests/gpu/test_engines_gpu.py`.

vLLM is this interpreter's; SGLang's is named by the environment variable SGLANG. Also runnable as a
script where pytest is missing: `SGLANG=/path/to/python python tests/gpu/test_engines_gpu.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any
from unittest import SkipTest

import torch
from safetensors.torch import load_file, save_file

from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.scorecard.architectures import make

try:
    import pytest

    pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]
except ImportError:  # a GPU machine without an index
    pass

SGLANG = os.environ.get("SGLANG", "")
PLUGINS = Path(__file__).parents[1] / "e2e" / "plugins.py"
# Caches are said, not profiled: what another program holds on the GPU would be counted in.
VLLM = (
    *("--engine", "vllm", "--engine-arg", "gpu_memory_utilization=0.3"),
    *("--engine-arg", f"kv_cache_memory_bytes={1024**3}"),
)
TRITON = (
    *("--engine", "sglang", "--engine-python", SGLANG, "--engine-arg", "mem_fraction_static=0.5"),
    *("--engine-arg", "max_total_tokens=32768"),
    *("--engine-arg", "attention_backend=triton", "--engine-arg", "sampling_backend=pytorch"),
)
ONE_START = (
    *("--engine-arg", "disable_cuda_graph=true", "--engine-arg", "chunked_prefill_size=-1"),
)
DETERMINISTIC = ("--engine-arg", "enable_deterministic_inference=true")


def diagnose(model: Path | str, *options: str) -> dict[str, Any]:
    """Findings of one run."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        command = [sys.executable, "-m", "mismatch_lab.cli", "diagnose", str(model), *options]
        command += ["--out", str(out), "--json"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        findings: dict[str, Any] = json.loads((out / "findings.json").read_text())
    seen = {name: edge["abs_delta_mean"]["value"] for name, edge in findings["edges"].items()}
    said = {"model": Path(model).name, "options": options, "nats": seen}
    print(json.dumps(said | {"verdict": findings["verdict"]}), flush=True)
    return findings


@cache
def models() -> Path:
    """A Llama and a Qwen3-MoE of random weights; heads of 32 are too small for SGLang's kernels."""
    folder = Path(tempfile.mkdtemp())
    for name in ("llama", "qwen3_moe"):
        make(name, folder / name, head_dim=64)
    return folder


def moved(model: Path, folder: Path) -> Path:
    """The checkpoint with every tensor moved by a tenth of its deviation, 0.02 at least."""
    generator = torch.Generator().manual_seed(5)

    def other(tensor: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(tensor.shape, generator=generator)
        return (tensor.float() + noise * max(tensor.float().std().item() / 10, 0.02)).to(tensor)

    tensors = load_file(model / "model.safetensors")
    return _written(model, folder, {name: other(tensor) for name, tensor in tensors.items()})


def in_float32(model: Path, folder: Path) -> Path:
    """SGLang takes GPT-OSS's dtype from config.json, whatever it is asked for."""
    tensors = load_file(model / "model.safetensors")
    written = _written(model, folder, {name: tensor.float() for name, tensor in tensors.items()})
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    return written


def _written(model: Path, folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    shutil.copytree(model, folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def sglang(*options: str) -> tuple[str, ...]:
    """Options of SGLang with its Triton backends.

    Raises:
        SkipTest: the environment names no interpreter.
    """
    if not SGLANG:
        raise SkipTest("SGLANG names no interpreter that has SGLang")
    return (*TRITON, *options)


def check_healthy(model: Path | str, *options: str) -> None:
    verdict = diagnose(model, "--dtype", "bfloat16", *options)["verdict"]
    assert verdict["status"] == "numerics", (model, options, verdict)


def first_cause(findings: dict[str, Any]) -> tuple[str, str, str | None]:
    verdict = findings["verdict"]
    assert verdict["status"] == "mismatch", verdict
    cause = verdict["causes"][0]
    return cause["id"], cause["side"], cause["location"]


def test_compiled_vllm_with_its_caches_is_healthy() -> None:
    for model in ("mini-gpt-oss", models() / "llama", models() / "qwen3_moe"):
        check_healthy(model, *VLLM)


def test_vllms_prefix_cache_outlives_reload_weights(tmp_path: Path) -> None:
    """By its own defaults: graphs, prefix cache, chunked prefill. The eager copy has no cache."""
    llama = models() / "llama"
    update = ("--weights-before", str(moved(llama, tmp_path / "old")))
    options = (*VLLM, "--dtype", "bfloat16", *update, "--weight-update", "reload_weights")
    assert first_cause(diagnose(llama, *options)) == ("stale-prefix-cache", "infer", None)


def test_vllms_own_transfer_leaves_gpt_oss_partly_old(tmp_path: Path) -> None:
    """By CUDA IPC from another process on the same GPU. Of GPT-OSS vLLM 0.22.1 takes 51 of 71."""
    cacheless = (*VLLM, "--engine-arg", "enable_prefix_caching=false")
    for model in (models() / "llama", checkpoint_dir()):
        before = moved(model, tmp_path / model.name)
        update = ("--weights-before", str(before), "--weight-update", "weight_transfer")
        options = (*cacheless, *update, "--dtype", "bfloat16", "--depth", "standard")
        found = diagnose(model, *options)
        if model == checkpoint_dir():
            assert first_cause(found)[:2] == ("stale-tensor", "sync")
            assert found["versions"]["counts"] == {"new": 51, "old": 20}
        else:
            assert found["verdict"]["status"] == "numerics", found["verdict"]
            assert found["versions"]["counts"] == {"new": 30}


def test_ligers_kernels_are_within_the_floor() -> None:
    check_healthy(models() / "llama", *VLLM, "--trainer-arg", "liger=true")


def test_sglang_with_its_graphs_and_caches_is_healthy() -> None:
    for model in ("mini-gpt-oss", models() / "llama", models() / "qwen3_moe"):
        check_healthy(model, *sglang())
    for model in ("mini-gpt-oss", models() / "qwen3_moe"):
        check_healthy(model, *sglang(*DETERMINISTIC))


def test_sglangs_decode_sees_one_key_less(tmp_path: Path) -> None:
    """Its Triton backend, float32: prefill sees the whole window."""
    wide = in_float32(checkpoint_dir(), tmp_path / "wide")
    options = (*sglang(*ONE_START, *DETERMINISTIC), "--engine-arg", "moe_runner_backend=triton")
    found = diagnose(wide, *options, "--dtype", "float32")
    expected = ("decode-prefill-divergence", "infer", "model.layers.0.self_attn")
    assert first_cause(found) == expected
    assert "one key too narrow" in json.dumps(found["verdict"]["causes"][0])


def test_sinks_dropped_by_the_trainer_beside_each_engine() -> None:
    for engine in (VLLM, sglang(*ONE_START)):
        plugin = ("--trainer-plugin", f"{PLUGINS}:drop_sinks", "--dtype", "bfloat16")
        expected = ("attention-sinks-dropped", "train", "model.layers.0.self_attn")
        assert first_cause(diagnose("mini-gpt-oss", *engine, *plugin)) == expected


def test_sglangs_updates_take_every_tensor(tmp_path: Path) -> None:
    """Of a GPT-OSS and a Qwen3-MoE, from disk and from tensors."""
    for model in (checkpoint_dir(), models() / "qwen3_moe"):
        before = moved(model, tmp_path / model.name)
        for how in ("reload_weights", "weights_iterator"):
            update = ("--weights-before", str(before), "--weight-update", how)
            check_healthy(model, *sglang(*ONE_START), *update)


TESTS = [
    test_compiled_vllm_with_its_caches_is_healthy,
    test_vllms_prefix_cache_outlives_reload_weights,
    test_vllms_own_transfer_leaves_gpt_oss_partly_old,
    test_ligers_kernels_are_within_the_floor,
    test_sinks_dropped_by_the_trainer_beside_each_engine,
    test_sglang_with_its_graphs_and_caches_is_healthy,
    test_sglangs_decode_sees_one_key_less,
    test_sglangs_updates_take_every_tensor,
]

if __name__ == "__main__":
    asked = sys.argv[1:] or [test.__name__ for test in TESTS]
    failed = 0
    for test in TESTS:
        if test.__name__ not in asked:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            try:
                test(*([Path(scratch)] if test.__code__.co_argcount else []))  # type: ignore[operator]
                print(f"ok {test.__name__}")
            except SkipTest as skipped:
                print(f"skipped {test.__name__}: {skipped}")
            except (AssertionError, subprocess.CalledProcessError) as error:
                failed += 1
                print(f"FAILED {test.__name__}: {error}")
    sys.exit(failed > 0)
