"""Time and memory of each way, in both modes, with and without a backward pass."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from mismatch_lab.remedies.grouped_experts.bench.allocations import Allocations
from mismatch_lab.remedies.grouped_experts.bench.layer import (
    Setting,
    choose,
    make_input,
    make_layer,
    make_mesh,
    shard,
)
from mismatch_lab.remedies.grouped_experts.bench.ways import WAYS
from mismatch_lab.remedies.grouped_experts.memory import kept_bytes

MIB = 2**20
MOST_ROUNDS = 5
SECONDS_PER_ROW = 0.3
NOTHING = float("nan")


@dataclass(frozen=True)
class Row:
    """One way at one length; memory is beyond the sharded layer and its input."""

    way: str
    mode: str
    tokens: int
    backward: bool
    milliseconds: float = NOTHING
    """Median over the rounds."""
    peak_mib: float = NOTHING
    kept_mib: float = NOTHING
    """Of router and experts together, from forward to backward."""
    formula_mib: float = NOTHING
    """What the closed formula says that the experts keep."""
    rounds: int = 0
    note: str = ""


class Bench:
    """A layer that is made anew after a failure: FSDP2 is left half way by an exception."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.sharding = "FSDP2, 1 rank"
        self._mesh: DeviceMesh | None = None
        self._layer: Any = None

    def start(self) -> None:
        """Try FSDP2 once; without it, `sharding` says why, and the layer is not sharded."""
        try:
            self._mesh = make_mesh(self.setting.device)
            layer = self.layer()
            _run(layer, (x := make_input(self.setting, 8)), torch.ones_like(x), True)
        except Exception as error:  # the rest is worth measuring
            self._mesh, self.sharding = None, f"none: {_said(error)}"
            self.drop()

    def layer(self) -> Any:
        """Sharded where that is possible."""
        if self._layer is None:
            self._layer = make_layer(self.setting)
            if self._mesh is not None:
                shard(self._layer, self._mesh)
        return self._layer

    def drop(self) -> None:
        """Forget the layer and all that hangs on it."""
        self._layer = None
        gc.collect()
        if self.setting.device == "cuda":
            torch.cuda.empty_cache()


def measure(bench: Bench, tokens: int, deadline: float) -> Iterator[Row]:
    """A row for every way, mode and pass.

    Args:
        bench: the layer.
        tokens: in one sequence.
        deadline: `perf_counter()` after which rows say that they were left out.
    """
    for way in WAYS:
        for mode in ("train", "eval"):
            for backward in (False, True):
                if perf_counter() > deadline:
                    yield Row(way, mode, tokens, backward, note="left out: out of time")
                    continue
                try:
                    row = _measure(bench, way, mode, tokens, backward)
                except Exception as error:  # out of memory is a result
                    row = Row(way, mode, tokens, backward, note=_said(error))
                if row.note:
                    bench.drop()
                yield row


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).split('. GPU')[0][:300]}"


def _measure(bench: Bench, way: str, mode: str, tokens: int, backward: bool) -> Row:
    layer = bench.layer().train(mode == "train")
    choose(layer, way)
    x = make_input(bench.setting, tokens)
    dout = torch.ones_like(x)

    def run() -> None:
        _run(layer, x, dout, backward)

    run()  # warms up
    on_cuda = bench.setting.device == "cuda"
    peak = _peak_cuda(run) if on_cuda else _peak_cpu(run)
    kept = formula = NOTHING
    if backward:
        kept = _kept_cuda(layer, x) if on_cuda else NOTHING
        looped = way == "repeat" and mode == "train"
        formula = kept_bytes("eager" if looped else way, bench.setting.shape, tokens) / MIB
    times: list[float] = []
    start = perf_counter()
    while not times or (perf_counter() - start < SECONDS_PER_ROW and len(times) < MOST_ROUNDS):
        times.append(_milliseconds(run, on_cuda))
    return Row(way, mode, tokens, backward, median(times), peak, kept, formula, len(times))


def _run(layer: Any, x: Tensor, dout: Tensor, backward: bool) -> None:
    """One pass; no gradient stays."""
    with torch.set_grad_enabled(backward):
        out, _ = layer(x)
    if backward:
        out.backward(dout)
        x.grad = None
        layer.zero_grad(set_to_none=True)


def _peak_cuda(run: Callable[[], None]) -> float:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated() - before) / MIB


def _peak_cpu(run: Callable[[], None]) -> float:
    with Allocations() as seen:
        run()
    return float(seen.peak) / MIB


def _kept_cuda(layer: Any, x: Tensor) -> float:
    """What goes when the graph goes, except the output."""
    out, scores = layer(x)
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    output = out.untyped_storage().nbytes()
    del out, scores
    return float(held - torch.cuda.memory_allocated() - output) / MIB


def _milliseconds(run: Callable[[], None], on_cuda: bool) -> float:
    if on_cuda:
        torch.cuda.synchronize()
    start = perf_counter()
    run()
    if on_cuda:
        torch.cuda.synchronize()
    return 1000 * (perf_counter() - start)
