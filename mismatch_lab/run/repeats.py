"""The measuring part of a diagnosis once more: engines started anew, another sampling seed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from mismatch_lab.engines.plan import floor_dtype, plan_tasks
from mismatch_lab.engines.seeds import seed_of
from mismatch_lab.errors import MismatchLabError
from mismatch_lab.executors.cache import run_cached
from mismatch_lab.findings.build import load_captures
from mismatch_lab.findings.edges import measure_edges
from mismatch_lab.findings.noise_floor import measure_floor
from mismatch_lab.findings.odd_tokens import odd_tokens
from mismatch_lab.findings.over_runs import Repeat, repeat_record
from mismatch_lab.findings.routing import measure_routing
from mismatch_lab.findings.verdict import Evidence, decide
from mismatch_lab.schema import RepeatRecord, RunSpec
from mismatch_lab.schema.events import OnEvent, StageBegan

AfterTask = Callable[[str, Path], None]

FOLDER = "repeats"
"""Of a run: one folder with captures and logs for each further run."""


def repeated_run(run: RunSpec, number: int) -> RunSpec:
    """The run that repeat `number` (from 2) measures: log-probs only, with a seed of its own."""
    sampling = run.probe.sampling
    seed = sampling.seed if number == 1 else seed_of(abs(sampling.seed), number) >> 1
    probe = run.probe.model_copy(update={"sampling": sampling.model_copy(update={"seed": seed})})
    return run.model_copy(
        update={"id": f"{run.id}-run{number}", "probe": probe, "depth": "quick", "repeats": 1}
    )


def measure_repeats(
    run: RunSpec,
    out: Path,
    on_event: OnEvent,
    after_task: AfterTask | None,
    cache: Path | None,
    timings_s: dict[str, float],
) -> list[Repeat]:
    """Every further run, one after another; one that fails says why, and nothing else is lost."""
    found = []
    for number in range(2, run.repeats + 1):
        on_event(StageBegan(f"run {number} of {run.repeats}"))
        began, spec = time.perf_counter(), repeated_run(run, number)
        try:
            found.append(_measured(number, spec, out, on_event, after_task, cache))
        except MismatchLabError as error:
            record = RepeatRecord(
                run=number,
                seed=spec.probe.sampling.seed,
                status="error",
                headline=error.problem,
            )
            found.append(Repeat(record))
        timings_s[f"run {number}"] = time.perf_counter() - began
    return found


def _measured(
    number: int,
    run: RunSpec,
    out: Path,
    on_event: OnEvent,
    after_task: AfterTask | None,
    cache: Path | None,
) -> Repeat:
    folder = out / FOLDER / str(number)
    for name, task in plan_tasks(run, str((folder / "captures").resolve())):
        run_cached(task, name, folder / "logs", on_event, cache)
        if after_task is not None:
            after_task(name, folder / "captures")
    captures = load_captures(folder)
    edges = measure_edges(captures)
    floor = measure_floor(captures, edges, floor_dtype(run))
    odd = tuple(odd_tokens(captures, number))
    rows = captures["decode"].rows.n_rows
    evidence = Evidence(edges, floor, None, measure_routing(captures), rows, odd=odd)
    decision = decide(evidence, run.probe.limits)
    seed = run.probe.sampling.seed
    record = repeat_record(number, seed, decision.status, decision.headline, edges, floor)
    return Repeat(record, odd)
