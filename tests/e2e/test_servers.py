"""`diagnose --engine-url` against a real vLLM server, as `vllm serve` starts it: raw log-probs.

The verdicts are those of the direct runs in `test_diagnose_real.py` and of the scorecard.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mismatch_lab.mini import checkpoint_dir

Diagnose = Callable[..., dict[str, Any]]

PLUGINS = Path(__file__).with_name("plugins.py")
SECRET = "sk-of-this-test-alone"
START_S = 240

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of `vllm serve` with the embedded model in float32; it ends with the module."""
    port, log = free_port(), tmp_path_factory.mktemp("serve") / "log"
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_API_KEY": SECRET,
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    command = [
        sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(checkpoint_dir()),
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager",
        "--served-model-name", "mini", "--max-logprobs", "-1", "--max-num-seqs", "16",
    ]  # fmt: skip
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=environment, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, process, log)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server is healthy."""
    began = time.monotonic()
    while time.monotonic() - began < START_S:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"no server within {START_S} s: {log.read_text()[-3000:]}")


@pytest.fixture
def on_server(
    server: str, diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """`diagnose` against it, in float32."""
    monkeypatch.setenv("MISMATCH_LAB_API_KEY", SECRET)
    return lambda *options, **more: diagnose(
        "--engine-url", server, "--dtype", "float32", "--max-tokens", "32", *options, **more
    )


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
