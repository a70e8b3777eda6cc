"""Metrics of runs as arrays, and over the seeds of an arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mismatch_lab.measures.rows import FloatArray
from mismatch_lab.trainer.comparison.records import Curve
from mismatch_lab.trainer.comparison.shown import GAIN, HELD_OUT, HELD_OUT_PART

Rows = Sequence[Mapping[str, Any]]
Series = dict[int, float]
"""Optimizer steps made -> value; NaN where it was not finite."""

MIN_WINDOW_STEPS = 5


def series(rows: Rows, name: str) -> Series:
    """A metric of one run: line k of `metrics.jsonl` is of the weights after k steps."""
    return {
        row["step"]: math.nan if row[name] is None else row[name] for row in rows if name in row
    }


def curve(per_seed: Sequence[Series]) -> Curve:
    """Mean, lowest and highest over seeds wherever one of them was measured.

    A seed without a finite value there is left out; `n` says how many are in.
    """
    steps = sorted({step for found in per_seed for step in found})
    table = np.array([[found.get(step, math.nan) for step in steps] for found in per_seed])
    columns = [column[np.isfinite(column)] for column in table.T]
    return Curve(
        steps_made=tuple(steps),
        mean=tuple(float(c.mean()) if len(c) else math.nan for c in columns),
        low=tuple(float(c.min()) if len(c) else math.nan for c in columns),
        high=tuple(float(c.max()) if len(c) else math.nan for c in columns),
        n=tuple(len(c) for c in columns),
    )


def window_steps(steps: int) -> int:
    """Last steps that a final value is the mean of: a tenth, at least 5 where there are as many."""
    return min(steps, max(MIN_WINDOW_STEPS, math.ceil(steps / 10)))


def final(rows: Rows, name: str, steps: int) -> float:
    """What a run of so many steps ended with; NaN if it was not measured then.

    Of held-out problems it is the last value, the gain that minus the first; of anything else the
    mean over the window's steps that have a finite value.
    """
    if name == GAIN:
        found = series(rows, HELD_OUT)
        return found.get(steps, math.nan) - found.get(0, math.nan)
    found = series(rows, name)
    if name.startswith(HELD_OUT_PART):
        return found.get(steps, math.nan)
    begin = steps - window_steps(steps)
    return _mean(np.array([value for step, value in found.items() if step >= begin], float))


def _mean(values: FloatArray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan
