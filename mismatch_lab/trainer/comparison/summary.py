"""From the folders of runs to `Comparison`: means over seeds, differences, and their words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mismatch_lab.findings.edges import record
from mismatch_lab.measures.rows import FloatArray
from mismatch_lab.measures.stats import mean_of_few
from mismatch_lab.report.numbers import ends, number, signed
from mismatch_lab.schema import EstimateRecord, Provenance
from mismatch_lab.trainer.comparison.arms import ARMS, HEALTHY
from mismatch_lab.trainer.comparison.curves import Rows, curve, final, series, window_steps
from mismatch_lab.trainer.comparison.records import ArmRecord, Comparison, Curve, RunRecord
from mismatch_lab.trainer.comparison.runs import Run, arguments
from mismatch_lab.trainer.comparison.shown import GAIN, HELD_OUT, SHOWN
from mismatch_lab.trainer.config import TrainConfig

Table = dict[str, dict[str, EstimateRecord]]


def summarise(base: TrainConfig, runs: list[Run], provenance: Provenance) -> Comparison:
    """Read every run's metrics and put the arms side by side; runs may be unfinished."""
    rows = {run.name: run.metrics() for run in runs}
    arms = list(dict.fromkeys(run.arm for run in runs))
    baseline = HEALTHY if HEALTHY in arms else arms[0]
    finished = [run for run in runs if run.finished()]
    ends = _ends(finished, rows)
    return Comparison(
        provenance=provenance,
        base=base.model_dump(mode="json"),
        seeds=tuple(sorted({run.seed for run in runs})),
        window=window_steps(base.steps),
        baseline=baseline,
        arms=tuple(_arm(name) for name in arms),
        runs=tuple(_run(run, rows[run.name]) for run in runs),
        starts=_starts(arms, runs, rows),
        finals=_finals(arms, ends),
        differences=_differences({arm: baseline for arm in arms if arm != baseline}, ends),
        mended=_differences(
            {a: ARMS[a].mends for a in arms if ARMS[a].mends in set(arms) - {baseline}}, ends
        ),
        curves=_curves(arms, runs, rows),
    )


Ends = dict[str, dict[tuple[str, int], float]]
"""metric -> (arm, seed) -> what that run ended with."""


def _ends(finished: list[Run], rows: dict[str, list[dict[str, Any]]]) -> Ends:
    found = {
        name: {(r.arm, r.seed): final(rows[r.name], name, r.config.steps) for r in finished}
        for name in SHOWN
    }
    return {name: ends for name, ends in found.items() if any(map(math.isfinite, ends.values()))}


def _finals(arms: list[str], ends: Ends) -> Table:
    return {
        name: {
            arm: _estimate([v for (a, _), v in of.items() if a == arm], _bounds(name))
            for arm in arms
        }
        for name, of in ends.items()
    }


def _differences(others: dict[str, str], ends: Ends) -> Table:
    """Each arm minus another, paired by seed: both saw the same problems in the same order."""
    found: Table = {}
    for name, of in ends.items():
        found[name] = {}
        for arm, other in others.items():
            seeds = [s for a, s in of if a == arm and (other, s) in of]
            apart = [of[arm, seed] - of[other, seed] for seed in seeds]
            found[name][arm] = _estimate(apart, SHOWN[name].bounds_of_difference)
    return found


def _bounds(name: str) -> tuple[float, float]:
    """Of a value that a run ended with."""
    return SHOWN[name].bounds_of_difference if name == GAIN else SHOWN[name].bounds


def _estimate(values: list[float], bounds: tuple[float, float]) -> EstimateRecord:
    return mean_over_seeds(np.array(values, float), *bounds)


def _starts(
    arms: list[str], runs: list[Run], rows: dict[str, list[dict[str, Any]]]
) -> dict[str, EstimateRecord]:
    found: dict[str, list[float]] = {arm: [] for arm in arms}
    for run in runs:
        at = series(rows[run.name], HELD_OUT)
        if 0 in at:
            found[run.arm].append(at[0])
    return {arm: _estimate(values, _bounds(HELD_OUT)) for arm, values in found.items()}


def _curves(
    arms: list[str], runs: list[Run], rows: dict[str, list[dict[str, Any]]]
) -> dict[str, dict[str, Curve]]:
    found: dict[str, dict[str, Curve]] = {}
    for name in (n for n, shown in SHOWN.items() if shown.drawn):
        for arm in arms:
            mine = [series(rows[r.name], name) for r in runs if r.arm == arm]
            whole = curve(mine)
            if any(whole.n):
                found.setdefault(name, {})[arm] = whole
    return found


def _arm(name: str) -> ArmRecord:
    arm = ARMS[name]
    return ArmRecord(
        name=name,
        about=arm.about,
        faults=arm.faults,
        fixes=arm.fixes,
        settings=dict(arm.settings),
        mends=arm.mends,
    )


def _run(run: Run, rows: Rows) -> RunRecord:
    done = run.finished()
    seconds = [row["seconds/step"] for row in rows if row.get("seconds/step") is not None]
    return RunRecord(
        arm=run.arm,
        seed=run.seed,
        state="finished" if done else "unfinished",
        steps_made=min(len(rows), run.config.steps),
        seconds=math.fsum(seconds) if seconds else math.nan,
        folder=f"{run.folder.parent.name}/{run.folder.name}",
        command=("mismatch-lab", *arguments(run.config, run.folder)),
        problem="" if done else run.problem(),
    )


TONES = {"higher": "good", "lower": "bad", "not told apart": "fair", "no interval": "fair"}
GLYPHS = {"higher": "▲", "lower": "▼", "not told apart": "≈", "no interval": "?"}


def against(difference: EstimateRecord) -> str:
    """`higher`, `lower`, `not told apart`; `no interval` from fewer than two pairs of seeds."""
    low, high = difference.ci95
    if math.isnan(low):
        return "no interval"
    if low > 0:
        return "higher"
    return "lower" if high < 0 else "not told apart"


def cell(estimate: EstimateRecord | None, gap: str = " ", sign: bool = False) -> str:
    """`0.747 [0.700, 0.794], n = 3`; a dash where nothing was measured."""
    if estimate is None or estimate.n == 0:
        return "–"
    value = signed(estimate.value) if sign else number(estimate.value)
    return f"{value}{gap}{ends(*estimate.ci95)}".rstrip() + f", n = {estimate.n}"


def mean_over_seeds(
    values: FloatArray, lowest: float = -math.inf, highest: float = math.inf
) -> EstimateRecord:
    """Mean and interval of float [S], one value of each seed; see `mean_of_few`.

    Args:
        values: of the seeds.
        lowest: that the measure can be; Student's interval knows no bounds and is cut off there.
        highest: likewise.
    """
    found = record(mean_of_few(values))
    low, high = found.ci95
    if math.isnan(low):
        return found
    return found.model_copy(update={"ci95": (max(low, lowest), min(high, highest))})
