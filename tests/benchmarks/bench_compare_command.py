"""`compare` on 10 million tokens, files and checksums included: at most 3 s of CPU and 1 GiB.

Run as a script, or with pytest (`-m benchmark`, naming this file); the default suite takes a tenth
of the tokens.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.captures.store import save_capture
from mismatch_lab.schema import Manifest

N_TOKENS = {"small": 1_000_000, "full": 10_000_000}
TOKENS_PER_ROW = 500
PROMPT_TOKENS = 1
CPU_LIMIT_S = 3.0
MEMORY_LIMIT_GIB = 1.0

_CHILD = """
import resource, sys
from pathlib import Path
from mismatch_lab.cli.commands import run_compare
before = resource.getrusage(resource.RUSAGE_SELF)
run_compare(Path(sys.argv[1]), Path(sys.argv[2]), True)
after = resource.getrusage(resource.RUSAGE_SELF)
cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(cpu_s, (after.ru_maxrss - before.ru_maxrss) / 2**20, file=sys.stderr)
"""


def write_pair(folder: Path, n_tokens: int) -> tuple[Path, Path]:
    """Two captures of the same tokens, a little noise apart."""
    rng = np.random.default_rng(0)
    n_rows = n_tokens // TOKENS_PER_ROW
    offsets = np.arange(n_rows + 1, dtype=np.int64) * TOKENS_PER_ROW
    sampled = np.ones(n_tokens, bool)
    sampled[offsets[:-1]] = False
    ids = rng.integers(0, 50_000, n_tokens, dtype=np.int32)
    rows = Rows(ids, offsets, np.full(n_rows, PROMPT_TOKENS, np.int32), sampled)
    logp = -rng.standard_exponential(n_tokens, dtype=np.float32) - np.float32(0.5)
    logp[~sampled] = np.nan
    noise = np.float32(0.02) * rng.standard_normal(n_tokens, dtype=np.float32)
    for name, side, values in (("infer", "infer", logp), ("train", "train", logp + noise)):
        manifest = Manifest(
            id=name, side=side, engine="fake", engine_version="1", model="none", dtype="float32",
            sampling=None, logprob_space="processed", patched=[], host="none", packages={},
            rows=n_rows, tokens=n_tokens, wall_s=0.0, arrays_sha256="",
        )  # fmt: skip
        save_capture(folder / name, Capture(rows, values), manifest)
    return folder / "infer", folder / "train"


def measure(folder: Path, n_tokens: int) -> tuple[float, float]:
    """(CPU seconds, extra GiB) of the command in a process of its own."""
    pair = write_pair(folder, n_tokens)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *map(str, pair)], capture_output=True, text=True, check=True
    )
    n = json.loads(done.stdout)["edges"]["decode_train"]["abs_delta_mean"]["n"]
    assert n == n_tokens - n_tokens // TOKENS_PER_ROW
    cpu_s, memory_gib = map(float, done.stderr.split()[-2:])
    print(
        f"compare, {n_tokens:,} tokens: CPU {cpu_s:.2f} s, {cpu_s / CPU_LIMIT_S:.2f} of the limit; "
        f"extra memory {memory_gib:.2f} GiB, {memory_gib / MEMORY_LIMIT_GIB:.2f} of the limit"
    )
    return cpu_s, memory_gib


@pytest.mark.benchmark
def test_compare_within_the_limits(tmp_path: Path, benchmark_size: str) -> None:
    cpu_s, memory_gib = measure(tmp_path, N_TOKENS[benchmark_size])
    assert cpu_s <= CPU_LIMIT_S
    assert memory_gib <= MEMORY_LIMIT_GIB


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch), N_TOKENS["full"])
