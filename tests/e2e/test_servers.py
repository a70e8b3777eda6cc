"""`diagnose --engine-url` against a real vLLM server as it starts by itself (raw log-probs), and a
real SGLang server where its environment is there (`make sglang`).

The verdicts are those of the direct runs in `test_diagnose_real.py` and of the scorecard.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `serving` stands beside the tests

from serving import VLLM, free_port, kill, sglang_command, started, vllm_command

from mismatch_lab.engines.base import ScoreRequest
from mismatch_lab.engines.http.engine import HttpEngine
from mismatch_lab.errors import EngineError
from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.schema import Prompt, Sampling, SideSpec
from mismatch_lab.scorecard.architectures import make

Diagnose = Callable[..., dict[str, Any]]

PLUGINS = Path(__file__).with_name("plugins.py")
SECRET = "sk-of-this-test-alone"
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's server with the embedded model in float32."""
    log = tmp_path_factory.mktemp("serve") / "log"
    command = vllm_command(checkpoint_dir())
    with started(command, log, **VLLM, VLLM_API_KEY=SECRET) as url:
        yield url


@pytest.fixture
def on_server(
    server: str, diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """`diagnose` against it, in float32."""
    monkeypatch.setenv("MISMATCH_LAB_API_KEY", SECRET)
    return lambda *options, **more: diagnose(
        "--engine-url", server, "--dtype", "float32", "--max-tokens", "32", *options, **more
    )


@pytest.mark.long
def test_a_server_is_the_second_engine_of_a_three_way_run(on_server: Diagnose) -> None:
    findings = on_server("--engine", "hf", "--engine", "http", "--trainer", "hf")
    assert findings["verdict"]["status"] == "match", findings["verdict"]
    assert findings["three_way"]["stands_alone"] == "none", findings["three_way"]["why"]
    assert 0 < findings["edges"]["second_train"]["abs_delta_mean"]["value"] < 1e-5


def test_a_healthy_server_matches(on_server: Diagnose) -> None:
    findings = on_server("--depth", "standard")
    delta = findings["edges"]["decode_train"]["abs_delta_mean"]
    assert findings["verdict"]["status"] == "match", findings["verdict"]
    assert 0 < delta["value"] < 1e-5
    assert (delta["n"] > 256, delta["n_dropped"]) == (True, 0)
    assert findings["edges"]["prefill_train"]["kl_infer_train_exact"]["n"] > 0
    said = " ".join(findings["notes"])
    assert "no hidden states" in said
    assert "--enable-return-routed-experts" in said
    for file in findings["out"].rglob("*"):
        assert file.is_dir() or SECRET.encode() not in file.read_bytes(), file


@pytest.mark.long
def test_raw_log_probs_at_another_temperature_are_named(on_server: Diagnose) -> None:
    findings = on_server("--probe", "temperature", budget_s=180)
    verdict = findings["verdict"]
    assert verdict["status"] == "mismatch"
    assert [c["id"] for c in verdict["causes"]] == ["raw-logprobs-temperature"], verdict
    assert verdict["causes"][0]["confirmed_by"]
    flags = [one["server_with"] for one in verdict["by_hand"]]
    assert flags == ["--logprobs-mode processed_logprobs"]
    # The server's own model is sound: its re-scoring, at this temperature, is the trainer's.
    assert findings["edges"]["prefill_train"]["abs_delta_mean"]["value"] < 1e-5


@pytest.mark.long
def test_a_fault_of_the_trainer_is_the_trainers(on_server: Diagnose) -> None:
    findings = on_server("--trainer-plugin", f"{PLUGINS}:head_in_bf16", budget_s=180)
    causes = findings["verdict"]["causes"]
    assert findings["verdict"]["status"] == "mismatch"
    assert (causes[0]["id"], causes[0]["side"]) == ("lm-head-precision", "train"), causes
    assert findings["verdict"]["by_hand"] == []


def test_a_server_that_is_gone_is_two_lines_and_code_2(tmp_path: Path) -> None:
    options = ["--engine-url", f"http://127.0.0.1:{free_port()}", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "mismatch_lab.cli", "diagnose", *options],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "No server answers at http://127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_of_another_vocabulary_is_refused(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISMATCH_LAB_API_KEY", SECRET)
    make("llama", tmp_path / "other", vocab_size=640)
    options = [str(tmp_path / "other"), "--engine-url", server, "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "mismatch_lab.cli", "diagnose", *options],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout
    said = " ".join(done.stderr.split())
    assert "a vocabulary of 576 tokens (mini), and MODEL has one of 640" in said
    assert "Traceback" not in done.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    "program", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("vllm", "sglang")]
)
def test_a_server_that_dies_in_mid_run_is_an_error(program: str, tmp_path: Path) -> None:
    make("llama", tmp_path / "llama")
    vllm = program == "vllm"
    command = (vllm_command if vllm else sglang_command)(tmp_path / "llama")
    log = tmp_path / "log"
    with started(command, log, **(VLLM if vllm else {"PYTHONPATH": ""})) as url:
        options = [str(tmp_path / "llama"), "--engine-url", url, "--dtype", "float32"]
        running = subprocess.Popen(
            [sys.executable, "-m", "mismatch_lab.cli", "diagnose", *options,
             "--max-tokens", "200", "--out", str(tmp_path / "run")],
            stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        request = "/v1/completions" if vllm else "/generate"
        # A handful are asked at the start; from then on it samples.
        while running.poll() is None and log.read_text().count(f"POST {request}") < 14:
            time.sleep(0.1)
        assert running.poll() is None
        kill(url)
        said = " ".join(running.communicate(timeout=300)[1].split())
    assert running.returncode == 2
    assert url in said
    assert "Traceback" not in said


@pytest.mark.long
@pytest.mark.parametrize(
    "program", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("vllm", "sglang")]
)
def test_a_server_that_was_started_again_is_no_longer_the_one_that_was_asked(
    program: str, tmp_path: Path
) -> None:
    make("llama", tmp_path / "llama")
    vllm = program == "vllm"
    command = (vllm_command if vllm else sglang_command)(tmp_path / "llama")
    environment = VLLM if vllm else {"PYTHONPATH": ""}
    port = free_port()
    asked = [Prompt(id="one", text="The")]
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=4, seed=0)
    with started(command, tmp_path / "first.log", port, **environment) as url:
        engine = HttpEngine(
            SideSpec(
                side="infer", engine="http", model=str(tmp_path / "llama"), dtype="float32",
                urls=(url,),
            )
        )  # fmt: skip
        before = engine.generate(asked, sampling, lambda *_: None)
    try:
        with (
            started(command, tmp_path / "second.log", port, **environment),
            pytest.raises(EngineError, match="changed while it was asked: another start"),
        ):
            engine.score(before.rows, ScoreRequest(temperature=1.0), lambda *_: None)
    finally:
        engine.close()


# ---- SGLang ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sglang_server(tmp_path_factory: pytest.TempPathFactory, qwen3_moe: Path) -> Iterator[str]:
    """SGLang's server with a small Qwen3-MoE in float32."""
    log = tmp_path_factory.mktemp("serve-sglang") / "log"
    with started(sglang_command(qwen3_moe), log, PYTHONPATH="") as url:
        yield url


@pytest.mark.sglang
def test_a_healthy_sglang_server_matches_at_a_temperature(
    sglang_server: str, diagnose: Diagnose, qwen3_moe: Path
) -> None:
    """What it returns while sampling is processed; inputs are scored at temperature 1."""
    findings = diagnose(
        str(qwen3_moe), "--engine-url", sglang_server, "--probe", "temperature",
        "--dtype", "float32", "--max-tokens", "24",
    )  # fmt: skip
    assert findings["verdict"]["status"] == "match", findings["verdict"]
    for edge in ("decode_train", "decode_prefill", "prefill_train"):
        assert 0 < findings["edges"][edge]["abs_delta_mean"]["value"] < 1e-5
    manifest = json.loads((findings["out"] / "captures" / "decode" / "manifest.json").read_text())
    assert manifest["engine_version"].startswith("sglang ")
    assert manifest["logprob_space"] == "processed"


@pytest.mark.sglang
@pytest.mark.long
def test_a_fault_of_the_trainer_is_found_through_sglang(
    sglang_server: str, diagnose: Diagnose, qwen3_moe: Path
) -> None:
    findings = diagnose(
        str(qwen3_moe), "--engine-url", sglang_server, "--dtype", "float32",
        "--max-tokens", "24", "--trainer-plugin", f"{PLUGINS}:head_in_bf16", budget_s=180,
    )  # fmt: skip
    causes = findings["verdict"]["causes"]
    assert (causes[0]["id"], causes[0]["side"]) == ("lm-head-precision", "train"), causes
