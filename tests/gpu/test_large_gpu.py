"""Models of the sizes that are trained, on a CUDA GPU: `pytest -m gpu tests/gpu/test_large_gpu.py`.

Weights are random, shapes are the published ones: no file is needed but the package's tokenizer.
As a script, each run's findings, its time and the GPU's memory stay in FOLDER:

    python tests/gpu/test_large_gpu.py FOLDER llama-8b gpt-oss-20b gpt-oss-20b:drop_sinks
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from threading import Event, Thread
from typing import Any

import torch

from mismatch_lab.mini import checkpoint_dir

try:
    import pytest

    pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1800)]
except ImportError:  # a GPU machine without an index
    pass

PLUGINS = Path(__file__).parents[1] / "e2e" / "plugins.py"
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-8b": ("llama", {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    }),
    "gpt-oss-20b": ("gpt_oss", {"num_hidden_layers": 24, "num_local_experts": 32}),
}  # fmt: skip
"""Name -> model_type and what differs from transformers' default configuration."""

MATRICES, EMBEDDING, HEAD, NORMS, BIASES = 0.02, 1.0, 0.05, 0.1, 0.05
"""Standard deviations. With inputs of root mean square 1 a row of 4,096 makes 1.3, logits 3.2.
What adds to the residual is divided by sqrt(2 layers), as GPT-2's is: otherwise a random model of
24 layers is chaotic, and two passes of one engine 0.7 nats apart."""
SINKS = 3.0
"""Mean of the sinks, whose deviation is 1: of some hundred keys they take a tenth."""
CACHE_BYTES = 4 * 1024**3
"""vLLM's cache is said, not profiled: another program's memory would be counted in."""


def make_large(name: str, folder: Path) -> None:
    """Write a checkpoint in bfloat16, made on the GPU."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    model_type, sizes = SHAPES[name]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir())
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = CONFIG_MAPPING[model_type](**sizes, bos_token_id=None, **ends)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    torch.manual_seed(0)
    for parameter_name, parameter in model.named_parameters():
        _fill(parameter_name, parameter.data, config.num_hidden_layers)
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder, max_shard_size="4GB")
    tokenizer.save_pretrained(folder)


def _fill(name: str, values: torch.Tensor, layers: int) -> None:
    if name.endswith("sinks"):
        values.normal_(SINKS, 1.0)
    elif values.dim() == 1 and not name.endswith("bias"):
        values.normal_(1.0, NORMS)
    elif name.endswith("bias"):
        values.normal_(0.0, BIASES)
    elif "o_proj" in name or "down_proj" in name:
        values.normal_(0.0, MATRICES / (2 * layers) ** 0.5)
    else:
        own = {"model.embed_tokens.weight": EMBEDDING, "lm_head.weight": HEAD}
        values.normal_(0.0, own.get(name, MATRICES))


@cache
def model(name: str) -> Path:
    """Made once, in a process of its own, which gives the GPU's memory back."""
    folder = Path(mkdtemp()) / name
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
    code += f"from pathlib import Path; from {Path(__file__).stem} import make_large; "
    subprocess.run(
        [sys.executable, "-c", code + f"make_large({name!r}, Path({str(folder)!r}))"], check=True
    )
    return folder


def diagnose(name: str, out: Path, *options: str) -> dict[str, Any]:
    """Findings of one run, with vLLM as it starts by itself."""
    command = [sys.executable, "-m", "mismatch_lab.cli", "diagnose", str(model(name))]
    command += ["--engine-arg", f"kv_cache_memory_bytes={CACHE_BYTES}"]
    command += ["--engine-arg", "gpu_memory_utilization=0.3", "--engine-arg", "max_model_len=4096"]
    command += ["--depth", "standard", "--dtype", "bfloat16", *options, "--out", str(out)]
    subprocess.run(command, check=True)
    findings: dict[str, Any] = json.loads((out / "findings.json").read_text())
    return findings


def test_llama_8b_is_healthy(tmp_path: Path) -> None:
    verdict = diagnose("llama-8b", tmp_path / "run")["verdict"]
    assert verdict["status"] == "numerics", verdict


def test_gpt_oss_20b_is_healthy(tmp_path: Path) -> None:
    verdict = diagnose("gpt-oss-20b", tmp_path / "run")["verdict"]
    assert verdict["status"] == "numerics", verdict


def test_sinks_dropped_from_gpt_oss_20b_are_named(tmp_path: Path) -> None:
    options = ("--trainer-plugin", f"{PLUGINS}:drop_sinks")
    first = diagnose("gpt-oss-20b", tmp_path / "run", *options)["verdict"]["causes"][0]
    assert (first["id"], first["side"]) == ("attention-sinks-dropped", "train")
    assert first["location"].startswith("model.layers.0")


@contextmanager
def memory_of_gpu(peak: dict[str, float]) -> Any:
    """Fill `peak["gib"]` with the most that the GPU held, of all programs, every half second."""
    ended = Event()

    def watch() -> None:
        while not ended.wait(0.5):
            free, total = torch.cuda.mem_get_info()
            peak["gib"] = max(peak["gib"], (total - free) / 1024**3)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for run in sys.argv[2:]:
        name, *plugin = run.split(":")
        options = [*("--trainer-plugin", f"{PLUGINS}:{plugin[0]}")] if plugin else []
        began, peak = time.perf_counter(), {"gib": 0.0}
        model(name)
        made_s = time.perf_counter() - began
        out = folder / run.replace(":", "-")
        shutil.rmtree(out, ignore_errors=True)
        with memory_of_gpu(peak):
            findings = diagnose(name, out, *options)
        row = {
            "run": run,
            "made_s": round(made_s),
            "diagnosed_s": round(time.perf_counter() - began - made_s),
            "peak_gib": round(peak["gib"], 1),
            "timings_s": findings["timings_s"],
            "verdict": findings["verdict"],
        }
        with (folder / "runs.jsonl").open("a") as stream:
            stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
