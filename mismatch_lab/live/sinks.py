"""Where a monitor's numbers go, step by step: files, TensorBoard, Weights & Biases, Prometheus.

Each is opened by the monitor's own thread and called by it alone. None is needed: what is not
installed is said when the monitor is made.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from mismatch_lab.errors import InputError, MissingDependencyError, choices
from mismatch_lab.registry import resolve

Values = Mapping[str, float]


class Sink(Protocol):
    """Takes each step's values by name, `EDGE/MEASURE`; those that are not finite too."""

    def write(self, step: int, values: Values) -> None:
        """Take one step."""

    def close(self) -> None:
        """No step follows."""


class JsonLines:
    """`metrics-rank-RANK.jsonl`: a line a step; what is not finite is null."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = folder / f"metrics-rank-{rank}.jsonl"

    def write(self, step: int, values: Values) -> None:
        line = {"step": step, **{n: v if math.isfinite(v) else None for n, v in values.items()}}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        pass


class TensorBoard:
    """Event files in `tensorboard/rank-RANK`."""

    def __init__(self, folder: Path, rank: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        where = str(folder / "tensorboard" / f"rank-{rank}")
        self._board: Any = SummaryWriter(where)

    def write(self, step: int, values: Values) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                self._board.add_scalar(name, value, step)
        self._board.flush()

    def close(self) -> None:
        self._board.close()


class Wandb:
    """The run that the training loop has begun, with an axis of its own: the loop's steps are
    logged by the loop, and W&B drops what comes late under an axis that has gone on.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._rank = rank
        self._run: Any = None

    def write(self, step: int, values: Values) -> None:
        import wandb

        run = wandb.run
        if run is None:  # on most ranks, and before the loop has begun its own
            return
        axis = "mismatch_lab/step"
        if run is not self._run:
            self._run = run
            for group in sorted({_group(name) for name in values}):
                run.define_metric(group, step_metric=axis)
        run.log({**{n: v for n, v in values.items() if math.isfinite(v)}, axis: step})

    def close(self) -> None:
        pass  # the run is the loop's


def _group(name: str) -> str:
    """What W&B calls all metrics of a folder."""
    return f"{name.split('/')[0]}/*" if "/" in name else name


class Prometheus:
    """`mismatch_lab-rank-RANK.prom`, which node_exporter's textfile collector reads."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = folder / f"mismatch_lab-rank-{rank}.prom"
        self._rank = rank

    def write(self, step: int, values: Values) -> None:
        lines = []
        for name, value in [("step", float(step)), *values.items()]:
            metric = "mismatch_lab_" + re.sub(r"[^a-zA-Z0-9]+", "_", name).strip("_")
            told = "NaN" if math.isnan(value) else repr(float(value)).replace("inf", "Inf")
            lines += [f"# TYPE {metric} gauge", f'{metric}{{rank="{self._rank}"}} {told}']
        partial = self.path.with_suffix(".partial")
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
        partial.replace(self.path)  # a collector never reads half a file

    def close(self) -> None:
        pass


SINKS: Mapping[str, str] = {
    "jsonl": "mismatch_lab.live.sinks:JsonLines",
    "tensorboard": "mismatch_lab.live.sinks:TensorBoard",
    "wandb": "mismatch_lab.live.sinks:Wandb",
    "prometheus": "mismatch_lab.live.sinks:Prometheus",
}
"""By name; each is made with the monitor's folder and rank."""
NEEDS: Mapping[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "torch"),
    "wandb": ("wandb",),
}
"""Packages of those that need one."""


def check_sinks(names: tuple[str, ...]) -> None:
    """Raise where a sink is unknown or its package is not installed.

    Raises:
        InputError: no sink of that name.
        MissingDependencyError: its package is not there.
    """
    for name in names:
        if name not in SINKS:
            raise InputError(f"Unknown sink {name!r}.", choices(name, SINKS))
        for package in NEEDS.get(name, ()):
            if find_spec(package) is None:
                raise MissingDependencyError(
                    f"The sink {name} needs {package}, which is not installed.",
                    f"pip install {package}",
                )


def open_sinks(names: tuple[str, ...], folder: Path, rank: int) -> list[Sink]:
    """The sinks of those names."""
    return [resolve("sink", name, SINKS)(folder, rank) for name in names]
