"""The real SGLang on this CPU: verdicts, caches, updates, and that nothing of it is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mismatch_lab.captures.store import load_capture
from mismatch_lab.engines.interpreters import interpreter
from mismatch_lab.engines.jobs import GenerateJob, ScoreJob, Stage, WorkerTask
from mismatch_lab.executors.local import run_task
from mismatch_lab.schema import Prompt, Sampling, SideSpec
from mismatch_lab.scorecard.architectures import make

pytestmark = [pytest.mark.sglang, pytest.mark.slow, pytest.mark.timeout(600)]

PLUGIN = Path(__file__).with_name("plugins.py")
SHARED = "Tom has 3 apples and buys 4 more. He gives 2 to Ben, who has 5. Ask:"
PROMPTS = [Prompt(id=f"p{i}", text=f"{SHARED} {end}") for i, end in enumerate(("how?", "why?"))]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    make("llama", folder)
    return folder


def moved(model: Path, folder: Path) -> Path:
    """The checkpoint with every matrix moved by a tenth of its deviation."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    generator = torch.Generator().manual_seed(5)
    tensors = load_file(model / "model.safetensors")
    for name, tensor in tensors.items():
        if tensor.dim() > 1:
            noise = torch.randn(tensor.shape, generator=generator) * tensor.float().std() / 10
            tensors[name] = (tensor.float() + noise).to(tensor.dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def spec_of(model: Path, **more: Any) -> SideSpec:
    python = interpreter("sglang", None)
    return SideSpec.model_validate(
        {
            **{"side": "infer", "engine": "sglang", "model": str(model), "dtype": "float32"},
            **{"python": python, **more},
        }
    )


Run = Callable[..., Path]


@pytest.fixture
def captured(tmp_path: Path) -> Run:
    """Run stages of a worker; the folder of their captures."""

    def run(*stages: Stage) -> Path:
        task = WorkerTask(captures_dir=str(tmp_path / "captures"), stages=list(stages))
        run_task(task, "sglang", tmp_path / "logs", lambda event: None)
        return tmp_path / "captures"

    return run


def sample(name: str, **more: Any) -> GenerateJob:
    return GenerateJob(id=name, prompts=PROMPTS, sampling=Sampling(max_tokens=16, seed=3, **more))


def test_the_same_policy_is_a_match_in_float32_and_numerics_in_bfloat16(
    diagnose: Any, llama: Path
) -> None:
    options = ("--engine", "sglang", "--depth", "quick")
    same = diagnose(str(llama), *options, "--dtype", "float32")
    assert same["verdict"]["status"] == "match"
    shutil.rmtree(same["out"])
    rounded = diagnose(str(llama), *options, "--dtype", "bfloat16")
    assert rounded["verdict"]["status"] == "numerics"


@pytest.mark.long
def test_a_row_that_is_cut_is_held_against_sglangs_own_eager_code(
    diagnose: Any, llama: Path
) -> None:
    chunks = ("--engine-arg", "chunked_prefill_size=64", "--depth", "standard")
    found = diagnose(str(llama), "--engine", "sglang", "--dtype", "float32", *chunks)
    assert found["verdict"]["status"] == "match"
    assert found["localisation"]["per_module"], "hidden states of the eager start"
    for edge in ("decode_prefill", "decode_eager", "prefill_eager"):
        assert 0 <= found["edges"][edge]["abs_delta_mean"]["value"] < 1e-5


@pytest.mark.long
def test_a_top_k_of_a_verl_file_is_named_and_taken_back(
    diagnose: Any, llama: Path, tmp_path: Path
) -> None:
    file = tmp_path / "verl.yaml"
    own = "engine_kwargs: {sglang: {attention_backend: torch_native}}"  # verl's is fa3, of GPUs
    file.write_text(f"rollout: {{name: sglang, dtype: float32, top_k: 5, {own}}}\n")
    found = diagnose(str(llama), "--engine-config", str(file), budget_s=60)
    cause = found["verdict"]["causes"][0]
    assert (cause["id"], cause["side"]) == ("sampler-truncation", "infer")


@pytest.mark.long
def test_a_decode_that_sees_one_key_less_is_named(diagnose: Any, tmp_path: Path) -> None:
    make("gemma3_text", tmp_path / "gemma3")
    plugin = ("--engine-plugin", f"{PLUGIN}:sglang_decode_sees_one_key_less")
    options = ("--engine", "sglang", "--dtype", "float32", *plugin)
    found = diagnose(str(tmp_path / "gemma3"), *options, budget_s=60)
    cause = found["verdict"]["causes"][0]
    assert (cause["id"], cause["side"]) == ("decode-prefill-divergence", "infer")
    assert cause["location"] == "model.layers.0.self_attn"
    assert "one key too narrow" in str(cause["evidence"])
    assert cause["confidence"] > 0.9


def test_gpt_oss_is_refused_before_anything_starts() -> None:
    began = time.monotonic()
    command = [sys.executable, "-m", "mismatch_lab.cli", "diagnose", "--engine", "sglang"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "SGLang cannot run GptOssForCausalLM on a CPU" in " ".join(done.stderr.split())
    assert time.monotonic() - began < 60


def test_a_prefix_from_the_radix_cache_changes_nothing(captured: Run, llama: Path) -> None:
    off = Stage(spec=spec_of(llama, args={"disable_radix_cache": True}), jobs=[sample("off")])
    on_spec = spec_of(llama)  # SGLang's own default
    score = ScoreJob(id="scored", source="again", probes=True)
    on = Stage(spec=on_spec, jobs=[sample("on"), sample("again"), score])
    folder = captured(off, on)
    plain, first, again, scored = (
        load_capture(folder / name)[0] for name in ("off", "on", "again", "scored")
    )
    np.testing.assert_array_equal(first.rows.token_ids, plain.rows.token_ids)
    np.testing.assert_array_equal(again.rows.token_ids, plain.rows.token_ids)
    for capture in (first, again):
        np.testing.assert_allclose(capture.logp, plain.logp, atol=2e-5)
    cached = load_capture(folder / "again")[1].options["cached_prefix_tokens"]
    assert all(int(count) > 5 for count in str(cached).split())
    sampled = again.rows.sampled
    np.testing.assert_allclose(scored.logp[sampled], again.logp[sampled], atol=2e-5)


@pytest.mark.long
def test_original_log_probs_are_those_before_the_temperature(captured: Run, llama: Path) -> None:
    stage = Stage(
        spec=spec_of(llama, args={"original_logprob": True}),
        jobs=[
            sample("cool", temperature=0.5),
            ScoreJob(id="at-1", source="cool"),
            ScoreJob(id="at-half", source="cool", temperature=0.5),
        ],
    )
    folder = captured(stage)
    cool, manifest = load_capture(folder / "cool")
    assert manifest.logprob_space == "raw"
    at_1, at_half = (load_capture(folder / name)[0].logp for name in ("at-1", "at-half"))
    sampled = cool.rows.sampled
    np.testing.assert_allclose(cool.logp[sampled], at_1[sampled], atol=2e-5)
    assert np.abs(cool.logp - at_half)[sampled].max() > 0.01


@pytest.mark.long
@pytest.mark.parametrize("how", ["reload_weights", "weights_iterator"])
def test_an_update_delivers_every_tensor(
    captured: Run, llama: Path, tmp_path: Path, how: str
) -> None:
    new = moved(llama, tmp_path / "new")
    updating = spec_of(new, weights_before=str(llama), weight_update=how)
    jobs = [sample("updated"), ScoreJob(id="scored", source="updated", fingerprint=True)]
    fresh = ScoreJob(id="fresh", source="updated", fingerprint=True)
    folder = captured(Stage(spec=updating, jobs=jobs), Stage(spec=spec_of(new), jobs=[fresh]))
    scored, started = (load_capture(folder / name)[0] for name in ("scored", "fresh"))
    np.testing.assert_array_equal(scored.logp, started.logp)
    assert scored.weights == started.weights
    assert how in load_capture(folder / "updated")[1].patched[0]


def test_nothing_is_left_of_a_worker_that_is_killed(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "capture"
    command = [
        *(sys.executable, "-m", "mismatch_lab.cli", "capture", str(llama)),
        *("--engine", "sglang", "--dtype", "float32", "--out", str(out)),
    ]
    program = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 240
    while not any("sglang::scheduler" in line for line in of_this_test()):
        assert program.poll() is None, "it ended before its scheduler started"
        assert time.monotonic() < until
        time.sleep(0.5)
    program.send_signal(signal.SIGKILL)
    program.wait()
    until = time.monotonic() + 30
    while of_this_test():
        assert time.monotonic() < until, of_this_test()
        time.sleep(0.2)


def of_this_test() -> list[str]:
    """Command lines of the processes that were started with this test's word."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        mine = f"MISMATCH_LAB_TEST={os.getpid()}".encode() in environment
        if mine and int(process.name) != os.getpid():
            found.append(line)
    return found


@pytest.fixture(autouse=True)
def marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of this test are known by a word in their environment."""
    monkeypatch.setenv("MISMATCH_LAB_TEST", str(os.getpid()))
