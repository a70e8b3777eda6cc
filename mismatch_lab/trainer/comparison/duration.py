"""How long a comparison takes: said roughly before it starts, and better once a step was made."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from mismatch_lab.checkpoints.config import EMBEDDED
from mismatch_lab.report.numbers import seconds
from mismatch_lab.trainer.comparison.runs import Run

EMBEDDED_STEP_S = 6.0
"""Seconds of a step of the embedded model with real vLLM, all else included, on one of two cores of
a Xeon at 2.6 GHz: 9 runs of 24 steps, two at a time, took 669 s (2026-11-29)."""
EMBEDDED_ANSWERS = 128
"""Sampled in such a step."""


def before(runs: Sequence[Run], workers: int) -> str:
    """A sentence on the runs that are still to be made."""
    missing = [run for run in runs if not run.finished()]
    left = _steps_left(missing)
    what = f"{left} steps are to be made in {len(missing)} runs, {workers} at a time"
    known = [s for run in runs for s in _step_seconds(run)]
    if known:
        return f"{what}: about {seconds(statistics.median(known) * left / workers)}."
    base = missing[0].config
    if base.model != EMBEDDED:
        return f"{what}; how long that takes is said after the first step."
    one = EMBEDDED_STEP_S * base.rollout.prompts * base.rollout.group / EMBEDDED_ANSWERS
    return (
        f"{what}: roughly {seconds(one * left / workers)}, at {one:.2g} s a step as on a core of "
        "2.6 GHz; the first step says more."
    )


class Remaining:
    """Says once, after the first step of a comparison, how long the rest will take."""

    def __init__(self, runs: Sequence[Run], workers: int) -> None:
        self._runs, self._workers = runs, workers
        self._said = False

    def after(self, run: Run) -> str:
        """A sentence after the first step that was made; else nothing."""
        took = _step_seconds(run)
        if self._said or not took:
            return ""
        self._said = True
        rest = took[-1] * _steps_left(self._runs) / min(self._workers, len(self._runs))
        return f"The first step took {seconds(took[-1])}: about {seconds(rest)} are left."


def _steps_left(runs: Sequence[Run]) -> int:
    return sum(max(run.config.steps - len(run.metrics()), 0) for run in runs)


def _step_seconds(run: Run) -> list[float]:
    """Of the steps a run has made."""
    return [row["seconds/step"] for row in run.metrics() if row.get("seconds/step") is not None]
