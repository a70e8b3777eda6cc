"""Ingesting a dump of 500 MB: 100 MB a second of CPU time, in memory that four times as many steps
do not make more.

Run with pytest (`-m benchmark --benchmark-size full`, naming this file); small is a tenth. The
work is done in processes of their own; memory is the largest resident size of each.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

STEPS = 8
ROWS = {"small": 45, "full": 450}
"""A step, of at most 3,000 tokens each: some 170 bytes a token in NeMo-RL's lines."""
WIDTH = 3000
MB_PER_S = 100.0
MORE_MEMORY = 1.15
"""Of eight steps over two: what Python keeps of freed memory varies by so much."""

CHILD = """
import json, resource, sys, time
from pathlib import Path
from mismatch_lab.ingest.run import IngestRequest, ingest
flags = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
began = time.process_time()
report = ingest(IngestRequest("nemo-rl", Path(sys.argv[1]), Path(sys.argv[2]), flags,
                              steps=sys.argv[3]), lambda event: None)
cpu_s = time.process_time() - began
kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"mb": report.bytes / 1e6, "cpu_s": cpu_s, "mib": kib / 1024}))
"""


def write_dump(folder: Path, rows: int) -> None:
    """As NeMo-RL's logger writes it."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for step in range(STEPS):
        path = folder / f"train_data_step{step}.jsonl"
        with path.open("w", encoding="utf-8") as stream:
            for _ in range(rows):
                length = int(rng.integers(WIDTH // 2, WIDTH))
                mask = np.zeros(WIDTH, np.float32)
                mask[200:length] = 1
                infer = -rng.standard_exponential(WIDTH, dtype=np.float32) * mask
                noise = np.float32(0.01) * rng.standard_normal(WIDTH, dtype=np.float32)
                line = {
                    "content": ["word " * length],
                    "token_ids": [rng.integers(0, 150_000, WIDTH).tolist()],
                    "token_loss_mask": [mask.tolist()],
                    "sample_loss_mask": [1.0],
                    "input_lengths": [length],
                    "advantages": [np.full(WIDTH, 0.37, np.float32).tolist()],
                    "generation_logprobs": [infer.tolist()],
                    "prev_logprobs": [((infer + noise) * mask).tolist()],
                }
                stream.write(json.dumps(line) + "\n")
        os.utime(path, (0, 0))


def measured(dump: Path, out: Path, steps: str) -> dict[str, float]:
    """Megabytes, CPU seconds and MiB, of a fresh interpreter."""
    command = [sys.executable, "-c", CHILD, str(dump), str(out), steps]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.benchmark
@pytest.mark.timeout(600)
def test_a_dump_is_read_at_the_speed_of_a_disk_in_constant_memory(
    tmp_path: Path, benchmark_size: str
) -> None:
    write_dump(tmp_path / "dump", ROWS[benchmark_size])
    few = measured(tmp_path / "dump", tmp_path / "few", "0:2")
    many = measured(tmp_path / "dump", tmp_path / "many", f"0:{STEPS}")
    speed, more = many["mb"] / many["cpu_s"], many["mib"] / few["mib"]
    print(
        f"ingest, {many['mb']:.0f} MB: {speed:.0f} MB/s of CPU time, {speed / MB_PER_S:.2f} of the "
        f"aim of {MB_PER_S:g}; {many['mib']:.0f} MiB, {more:.2f} times that of a quarter of it"
    )
    assert speed >= MB_PER_S
    assert more <= MORE_MEMORY
