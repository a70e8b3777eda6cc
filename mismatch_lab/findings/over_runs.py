"""Between-run variance: the same measured with engines started anew and other sampling seeds.

Rows of one run share its engine start, its kernels and its batches. Where runs differ by more than
rows explain, the interval over rows is too narrow, and the one over runs decides.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mismatch_lab.findings.edges import record
from mismatch_lab.measures.stats import mean_of_few
from mismatch_lab.schema import (
    EstimateRecord,
    Measures,
    NoiseFloor,
    OddTokens,
    OverRuns,
    RepeatRecord,
    Status,
)

MEASURES = ("abs_delta_mean", "mean_delta")
"""Of each edge: what a verdict rests on."""


@dataclass(frozen=True)
class Repeat:
    """A further run: its numbers, and tokens in it without a log-prob."""

    record: RepeatRecord
    odd: tuple[OddTokens, ...] = ()


def repeat_record(
    run: int,
    seed: int,
    status: Status,
    headline: str,
    edges: dict[str, Measures],
    floor: NoiseFloor | None,
) -> RepeatRecord:
    """The numbers of one run that are compared with those of others."""
    return RepeatRecord(
        run=run,
        seed=seed,
        status=status,
        headline=headline,
        edges={
            edge: {name: measures[name].value for name in MEASURES if name in measures}
            for edge, measures in edges.items()
        },
        floor_ratios={name: ratio.value for name, ratio in _ratios(floor).items()},
    )


def mean_over_runs(values: Sequence[float], signed: bool = False) -> EstimateRecord:
    """Mean with Student's t interval; what cannot be below 0 gets no lower end below 0."""
    found = record(mean_of_few(np.array(values, np.float64)))
    low, high = found.ci95
    if signed or math.isnan(low):
        return found
    return found.model_copy(update={"ci95": (max(0.0, low), high)})


def over_runs(
    runs: list[RepeatRecord], edges: dict[str, Measures], floor: NoiseFloor | None
) -> OverRuns:
    """All runs together.

    Args:
        runs: the first one and its repeats; those that failed have no numbers.
        edges: of the first run, with intervals over rows.
        floor: of the first run.
    """
    found = {
        edge: {
            name: mean_over_runs(
                [run.edges.get(edge, {}).get(name, math.nan) for run in runs],
                signed=name == "mean_delta",
            )
            for name in MEASURES
            if name in measures
        }
        for edge, measures in edges.items()
    }
    own = _ratios(floor)
    ratios = {
        name: mean_over_runs([run.floor_ratios.get(name, math.nan) for run in runs]) for name in own
    }
    wider = [e for e in found if is_wider(found[e]["abs_delta_mean"], edges[e]["abs_delta_mean"])]
    wider += [name for name in ratios if is_wider(ratios[name], own[name])]
    return OverRuns(runs=runs, edges=found, floor_ratios=ratios, wider=wider)


def is_wider(over_runs: EstimateRecord, over_rows: EstimateRecord) -> bool:
    """Whether the interval over runs is the larger one; one that is not there is not."""
    return _width(over_runs) > (0.0 if math.isnan(_width(over_rows)) else _width(over_rows))


def without_reference(repeat: Repeat) -> Repeat:
    """The repeat less what it measured against the reference: the first run has another one."""
    edges = {name: m for name, m in repeat.record.edges.items() if not name.endswith("_ref")}
    pairs = ("edge", "decode_second", "second_train")
    own = {form for pair in pairs for form in (f"{pair}_ratio", f"typical.{pair}")}
    ratios = {name: r for name, r in repeat.record.floor_ratios.items() if name in own}
    record = repeat.record.model_copy(update={"edges": edges, "floor_ratios": ratios})
    return replace(repeat, record=record)


def _width(estimate: EstimateRecord) -> float:
    return estimate.ci95[1] - estimate.ci95[0]


def widened_edges(edges: dict[str, Measures], over: OverRuns) -> dict[str, Measures]:
    """The first run's edges, with what the runs say where their interval is wider."""
    return {
        edge: {
            name: _larger(estimate, over.edges.get(edge, {}).get(name))
            for name, estimate in measures.items()
        }
        for edge, measures in edges.items()
    }


def widened_floor(floor: NoiseFloor | None, over: OverRuns) -> NoiseFloor | None:
    """The same of the floor's ratios."""
    if floor is None:
        return None
    return floor.with_ratios(
        {name: _larger(own, over.floor_ratios.get(name)) for name, own in floor.ratios().items()}
    )


def _ratios(floor: NoiseFloor | None) -> dict[str, EstimateRecord]:
    return {} if floor is None else floor.ratios()


def _larger(rows: EstimateRecord, runs: EstimateRecord | None) -> EstimateRecord:
    """Tokens stay the count: runs have no other of their own."""
    if runs is None or not is_wider(runs, rows):
        return rows
    return rows.model_copy(update={"value": runs.value, "ci95": runs.ci95})


def in_words(over: OverRuns, edge: str) -> list[str]:
    """What the runs say together, and those that say something else, for people."""
    statuses = Counter(run.status for run in over.runs)
    said = ", ".join(f"{count} {status}" for status, count in statuses.items())
    size = over.edges.get(edge, {}).get("abs_delta_mean")
    reasons = []
    if size is not None and size.n:
        low, high = size.ci95
        which = "wider, it decides" if edge in over.wider else "narrower than that over rows"
        ends = f" [{low:.3g}, {high:.3g}], {which}" if math.isfinite(low) else ""
        reasons.append(
            f"Over {size.n} runs ({said}): {edge} mean |delta| {size.value:.3g} nats{ends}."
        )
    reasons += [f"Run {run.run} failed: {run.headline}" for run in over.failed]
    odd = [run for run in over.runs[1:] if run.status == "mismatch"]
    if odd and over.runs[0].status != "mismatch":
        reasons.append(f"Run {odd[0].run} by itself: {odd[0].headline}")
    return reasons
