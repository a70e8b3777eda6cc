"""Trainer log-probs at a 200k vocabulary: at most 1.2 times the time of the plain fp32 log-softmax,
and at most a tenth of its extra memory.

Run as a script, or with pytest (`-m benchmark`, naming this file). Each way runs in a process of
its own: extra memory is the growth of the process's peak resident set over what it held before,
time is processor time on one thread (waiting threads spin), the best of several calls in turns.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mismatch_lab.engines.chunked_logp import token_logp

VOCABULARY = 200_000
TOKENS = 2048
WIDTH = 64
REPEATS = 3
TIME_LIMIT = 1.2
MEMORY_LIMIT = 0.1

Way = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(weight: Tensor, hidden: Tensor, targets: Tensor) -> Tensor:
    """[N] log-probs by way of [N, V] fp32 log-softmax."""
    log_probs = torch.log_softmax((hidden @ weight.T).float(), dim=-1)
    return log_probs.gather(-1, targets[:, None]).squeeze(-1)


def chunked(weight: Tensor, hidden: Tensor, targets: Tensor) -> Tensor:
    """[N] log-probs, a chunk at a time."""
    return token_logp(lambda part: part @ weight.T, hidden, targets)


WAYS: dict[str, Way] = {"plain": plain, "chunked": chunked}


def problem() -> tuple[Tensor, Tensor, Tensor]:
    """Weights of a head [V, D], hidden states [N, D], targets [N]."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator)
    return weight, hidden, torch.randint(VOCABULARY, (TOKENS,), generator=generator)


def peak_bytes(name: str) -> float:
    """Growth of this process's peak resident set by one call."""
    given = problem()
    WAYS[name](given[0], given[1][:2], given[2][:2])  # libraries set up what they keep
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    WAYS[name](*given)
    return 1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def best_times_s() -> dict[str, float]:
    """Best of several calls of each way."""
    torch.set_num_threads(1)
    given = problem()
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(REPEATS):
        for name, way in WAYS.items():
            began = time.process_time()
            way(*given)
            best[name] = min(best[name], time.process_time() - began)
    return best


def in_child(what: str) -> dict[str, float]:
    """What this script prints for an argument, in a fresh interpreter."""
    command = [sys.executable, __file__, what]
    child = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(child.stdout))


def measure() -> tuple[float, float]:
    """(time ratio, extra memory ratio) of the chunked way to the plain one."""
    times, memory = in_child("time"), in_child("plain") | in_child("chunked")
    ratios = times["chunked"] / times["plain"], memory["chunked"] / memory["plain"]
    print(
        f"token_logp, {TOKENS} tokens, vocabulary {VOCABULARY:,}: "
        f"{ratios[0]:.2f} of the plain log-softmax's time ({times['plain']:.2f} s), "
        f"{ratios[1]:.3f} of its extra memory ({memory['plain'] / 2**30:.2f} GiB)"
    )
    return ratios


@pytest.mark.benchmark
def test_time_and_memory_are_within_the_limits() -> None:
    time_ratio, memory_ratio = measure()
    assert time_ratio <= TIME_LIMIT
    assert memory_ratio <= MEMORY_LIMIT


if __name__ == "__main__":
    if len(sys.argv) == 1:
        measure()
    elif sys.argv[1] == "time":
        print(json.dumps(best_times_s()))
    else:
        print(json.dumps({sys.argv[1]: peak_bytes(sys.argv[1])}))
