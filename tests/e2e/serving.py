"""Inference servers in processes of their own, for tests: started, waited for, and ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mismatch_lab.engines.interpreters import own_python

START_S = 240

VLLM = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Environment of vLLM's server on a CPU."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def vllm_command(model: Path, *options: str) -> list[str]:
    """vLLM's server with a model in float32."""
    return [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
        "--dtype", "float32", "--enforce-eager", "--served-model-name", "mini",
        "--max-logprobs", "-1", "--max-num-seqs", "16", *options,
    ]  # fmt: skip


def sglang_command(model: Path, *options: str) -> list[str]:
    """SGLang's server with a model in float32, in an environment of its own."""
    python = own_python("sglang")
    assert python is not None  # the marker has seen to it
    return [
        python, str(Path(__file__).with_name("launch_sglang.py")),
        "--model-path", str(model), "--dtype", "float32", "--device", "cpu",
        "--attention-backend", "torch_native", "--sampling-backend", "pytorch",
        "--grammar-backend", "none", "--disable-cuda-graph", "--disable-overlap-schedule",
        "--skip-server-warmup", "--max-total-tokens", "8192", "--max-running-requests", "8",
        "--mem-fraction-static", "0.5", "--random-seed", "0", *options,
    ]  # fmt: skip


@contextmanager
def started(
    command: list[str], log: Path, port: int | None = None, **environment: str
) -> Iterator[str]:
    """URL of a server that ends with the block, with whatever it has started."""
    port = port or free_port()
    with log.open("w") as stream:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=stream,
            stderr=stream,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **environment},
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, process, log)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server is healthy."""
    began = time.monotonic()
    while time.monotonic() - began < START_S:
        if process.poll() is not None:
            raise RuntimeError(log.read_text()[-3000:])
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"no server within {START_S} s: {log.read_text()[-3000:]}")


def kill(url: str) -> None:
    """End the server at a URL, and all that it has started, without a word to it."""
    port = url.rpartition(":")[2].encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"--port" in words and words[words.index(b"--port") + 1] == port:
                os.killpg(int(process.name), signal.SIGKILL)
                return
    raise LookupError(f"no server at {url}")
