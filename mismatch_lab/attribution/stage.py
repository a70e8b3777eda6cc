"""The attribution stage of a run: when it is due, and what it adds to the findings."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mismatch_lab.attribution.attribute import BUDGET_S, Attributor, Measured
from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.store import load_capture
from mismatch_lab.engines.jobs import ScoreJob, Stage, WorkerTask
from mismatch_lab.executors.local import run_task
from mismatch_lab.findings.weights import tensors_unlike
from mismatch_lab.schema import Findings, RunSpec, SideSpec

OnEvent = Callable[[dict[str, Any]], None]

AfterTask = Callable[[str, Path], None]
TASKS = {"infer": "engine", "train": "trainer"}
"""Side -> the worker task whose place a repeated scoring of it takes; see `diagnose`."""

EXPERIMENTS = "experiments"
"""Folder of a run for captures of repairs on trial; gone when they are judged."""


def with_causes(
    run: RunSpec,
    out: Path,
    captures: Mapping[str, Capture],
    findings: Findings,
    on_event: OnEvent,
    budget_s: float | None = None,
    after_task: AfterTask | None = None,
) -> Findings:
    """The findings with causes, where there is a mismatch to explain and a reference to try on."""
    if findings.verdict.status != "mismatch" or findings.noise_floor is None:
        return findings
    measured = Measured(
        captures,
        findings.edges,
        findings.noise_floor,
        findings.localisation,
        {
            suspect: tensors_unlike(
                captures[name].weights, captures["ref"].weights, spec.dtype == "float32"
            )
            for suspect, name, spec in (
                ("infer", "prefill", run.infer),
                ("train", "train", run.train),
            )
        },
    )
    attributor = Attributor(run, out, measured, _rerun(run, out, on_event, after_task), on_event)
    found = attributor.attribute(BUDGET_S if budget_s is None else budget_s)
    verdict = findings.verdict.model_copy(
        update={
            "causes": found.causes,
            "ruled_out": found.ruled_out,
            "experiments": found.experiments,
        }
    )
    return findings.model_copy(
        update={"verdict": verdict, "notes": [*findings.notes, *found.notes]}
    )


def _rerun(
    run: RunSpec, out: Path, on_event: OnEvent, after_task: AfterTask | None
) -> Callable[[SideSpec, str], Capture]:
    folder = out / EXPERIMENTS

    def rerun(spec: SideSpec, name: str) -> Capture:
        job = ScoreJob(
            id=name,
            source=str((out / "captures" / "decode").resolve()),
            temperature=run.probe.sampling.temperature,
        )
        task = WorkerTask(captures_dir=str(folder.resolve()), stages=[Stage(spec=spec, jobs=[job])])
        try:
            run_task(task, name, out / "logs", on_event)
            if after_task is not None:
                after_task(TASKS.get(spec.side, name), folder)
            return load_capture(folder / name)[0]
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return rerun
