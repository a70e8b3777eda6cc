"""One line of JSON a step, and TensorBoard where it is asked for.

Line k is of the step that begins with the weights after k updates; the last line holds only what
the final weights reach on the held-out problems.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mismatch_lab.errors import MissingDependencyError

FILE = "metrics.jsonl"


class Metrics:
    """Writes each step once; a step made again after a resume replaces what was there."""

    def __init__(self, out: Path, resume_at: int, tensorboard: bool = False) -> None:
        self.path = out / FILE
        self._drop_from(resume_at)
        self._board = _board(out, resume_at) if tensorboard else None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one step; NaN and infinity are written as null."""
        line = {"step": step, **{name: _plain(value) for name, value in values.items()}}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if self._board is not None:
            for name, value in line.items():
                if isinstance(value, (int, float)) and name != "step":
                    self._board.add_scalar(name, value, step)
            self._board.flush()

    def _drop_from(self, step: int) -> None:
        """Steps after the checkpoint that a run resumes from are made again."""
        if not self.path.exists():
            return
        lines = [line for line in _whole_lines(self.path) if line["step"] < step]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        partial.replace(self.path)


class Clock:
    """Seconds by phase of a step, as `seconds/NAME`; `on_phase` is told when one begins."""

    def __init__(self, on_phase: Callable[[str], None] = lambda _name: None) -> None:
        self.on_phase = on_phase
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block; a phase entered twice adds up."""
        self.on_phase(name)
        began = time.perf_counter()
        yield
        spent = time.perf_counter() - began
        self.seconds[name] = self.seconds.get(name, 0.0) + spent

    def values(self) -> dict[str, float]:
        """All phases and the whole, since the clock was made."""
        whole = time.perf_counter() - self._began
        return {f"seconds/{n}": s for n, s in self.seconds.items()} | {"seconds/step": whole}


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """The steps of a run folder."""
    return _whole_lines(out / FILE)


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """A last line that a killed run left half is no line."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_tensorboard() -> None:
    """Raise MissingDependencyError where it is not installed."""
    if find_spec("tensorboard") is None:
        raise MissingDependencyError(
            "TensorBoard is not installed in this interpreter.", "pip install tensorboard"
        )


def _board(out: Path, resume_at: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    # What was written of later steps is shown no more.
    return SummaryWriter(str(out / "tensorboard"), purge_step=resume_at)
