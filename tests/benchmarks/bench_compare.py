"""Measuring an edge of 10 million tokens: at most 3 s of CPU time and 1 GiB of extra memory.

Run as a script, or with pytest (`-m benchmark`, naming this file). The work is done in a process of
its own. Memory is what numpy allocates, by tracemalloc, in a second call: tracing costs time.
"""

import json
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

from mismatch_lab.measures import measure_edge

N_TOKENS = 10_000_000
N_ROWS = 20_000
CPU_LIMIT_S = 3.0
MEMORY_LIMIT_GIB = 1.0


def measure() -> dict[str, float]:
    """CPU seconds and peak extra memory (GiB) of `measure_edge`, as measured in this process."""
    rng = np.random.default_rng(0)
    logp_infer = -rng.standard_exponential(N_TOKENS, dtype=np.float32)
    logp_train = logp_infer + np.float32(0.05) * rng.standard_normal(N_TOKENS, dtype=np.float32)
    logp_train[::100_003] = np.nan
    row_ids = np.sort(rng.integers(0, N_ROWS, N_TOKENS))
    started_s = time.process_time()
    measure_edge(logp_infer, logp_train, row_ids)
    cpu_s = time.process_time() - started_s
    tracemalloc.start()
    measure_edge(logp_infer, logp_train, row_ids)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    return {"cpu_s": cpu_s, "memory_gib": peak_bytes / 2**30}


def measure_in_child() -> dict[str, float]:
    """As `measure`, in a fresh interpreter."""
    command = [sys.executable, __file__, "--child"]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(result.stdout)
    return measured


@pytest.mark.benchmark
def test_ten_million_tokens_within_the_limits() -> None:
    measured = measure_in_child()
    print(report(measured))
    assert measured["cpu_s"] <= CPU_LIMIT_S
    assert measured["memory_gib"] <= MEMORY_LIMIT_GIB


def report(measured: dict[str, float]) -> str:
    """Each figure as a ratio to its limit: below 1 is within."""
    return "\n".join(
        f"measure_edge, {N_TOKENS:,} tokens: {name} {measured[key]:.2f} {unit}, "
        f"{measured[key] / limit:.2f} of the limit of {limit:g} {unit}"
        for name, key, limit, unit in (
            ("CPU", "cpu_s", CPU_LIMIT_S, "s"),
            ("extra memory", "memory_gib", MEMORY_LIMIT_GIB, "GiB"),
        )
    )


if __name__ == "__main__":
    if "--child" in sys.argv:
        print(json.dumps(measure()))
    else:
        print(report(measure_in_child()))
