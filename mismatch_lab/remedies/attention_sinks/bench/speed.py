"""Time and memory of each way, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch

from mismatch_lab.remedies.attention_sinks.bench.problem import Problem, Shape, make_problem
from mismatch_lab.remedies.attention_sinks.bench.ways import COPIES_OF_SCORES, Way, ways_for

MIB = 2**20
WARM_UP = 2
FEWEST_ROUNDS = 3
MOST_ROUNDS = 20
SECONDS_PER_GROUP = 3.0


@dataclass(frozen=True)
class Speed:
    """One way at one length."""

    way: str
    tokens: int
    window: int | None
    forward_ms: float = float("nan")
    total_ms: float = float("nan")
    """Forward and backward; medians over the rounds."""
    peak_mib: float = float("nan")
    """Memory beyond the inputs, at its most during forward and backward."""
    relative: float = float("nan")
    """Time of the kernel without sinks, forward and backward, over this one's."""
    rounds: int = 0
    note: str = ""


def measure_speed(shape: Shape, tokens: int, window: int | None, deadline: float) -> list[Speed]:
    """All ways in turns, so that a clock that drifts does so for all; the yardstick is the first.

    Args:
        shape: heads, dtype, device.
        tokens: of one document.
        window: keys a query sees, or None.
        deadline: `perf_counter()` after which a way that has to be compiled is left out.
    """
    problem = make_problem(shape, [tokens], window)
    ways = ways_for(problem.leaves[0])
    notes = {name: _left_out(name, way, shape, tokens, window) for name, way in ways.items()}
    peaks: dict[str, float] = {}
    for name, way in ways.items():
        if not notes[name] and name == "flex" and perf_counter() > deadline:
            notes[name] = "left out: out of time"
        if not notes[name]:
            try:
                peaks[name] = _peak(problem, way)
            except Exception as error:  # one way that fails is a result too
                notes[name] = f"{type(error).__name__}: {str(error)[:300]}"
                _free(shape.device)
    times = _rounds(problem, {name: ways[name] for name in peaks}, shape.device)
    yardstick = next(iter(ways))
    rows = []
    for name in ways:
        if name not in times:
            rows.append(Speed(name, tokens, window, note=notes[name]))
            continue
        forward, total = (median(column) for column in zip(*times[name], strict=True))
        base = median(t for _, t in times[yardstick]) if yardstick in times else float("nan")
        measured = forward, total, peaks[name], base / total, len(times[name])
        rows.append(Speed(name, tokens, window, *measured))
    return rows


def _left_out(name: str, way: Way, shape: Shape, tokens: int, window: int | None) -> str:
    if window is not None and not way.windows:
        return "takes no window"
    needed = COPIES_OF_SCORES * shape.score_bytes * tokens**2
    if way.quadratic and shape.device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        if needed > 0.9 * free:
            return f"would need about {needed / 2**30:.0f} GiB"
    return ""


def _peak(problem: Problem, way: Way) -> float:
    """MiB beyond what was there before; warms up first."""
    for _ in range(WARM_UP):
        problem.run(way.attend)
    if not problem.dout.is_cuda:
        return float("nan")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    problem.run(way.attend)
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


def _rounds(
    problem: Problem, ways: dict[str, Way], device: str
) -> dict[str, list[tuple[float, float]]]:
    """(forward, forward and backward) in milliseconds of each round of each way."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    start = perf_counter()
    for done in range(MOST_ROUNDS):
        if done >= FEWEST_ROUNDS and perf_counter() - start > SECONDS_PER_GROUP:
            break
        for name, way in ways.items():
            forward = _milliseconds(lambda way=way: problem.out(way.attend), device)  # type: ignore[misc]
            total = _milliseconds(lambda way=way: problem.run(way.attend), device)  # type: ignore[misc]
            times[name].append((forward, total))
    return times


def _milliseconds(call: Callable[[], object], device: str) -> float:
    if device != "cuda":
        start = perf_counter()
        call()
        return 1000 * (perf_counter() - start)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    events[0].record()
    call()
    events[1].record()
    torch.cuda.synchronize()
    return float(events[0].elapsed_time(events[1]))


def _free(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
