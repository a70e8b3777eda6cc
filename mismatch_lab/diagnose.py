"""The main job: plan, capture both sides, measure, decide, report."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mismatch_lab import reference_check
from mismatch_lab.attribution.suspects import noise_of
from mismatch_lab.captures.capture import Capture
from mismatch_lab.engines.checkpoint import checkpoint_state
from mismatch_lab.engines.plugin import check_plugin
from mismatch_lab.errors import InputError
from mismatch_lab.executors.cache import run_cached
from mismatch_lab.executors.warm import start_s, warm_workers
from mismatch_lab.findings.build import build_findings, load_captures
from mismatch_lab.findings.over_runs import Repeat
from mismatch_lab.plan import plan_tasks
from mismatch_lab.repeats import measure_repeats
from mismatch_lab.schema import Findings, RunSpec, write_json

OnEvent = Callable[[dict[str, Any]], None]
AfterTask = Callable[[str, Path], None]

RUN_FILE = "run.json"
FINDINGS_FILE = "findings.json"
REPORT_FILE = "report.html"
GATE_FILE = "gate.json"
OURS = {
    RUN_FILE,
    FINDINGS_FILE,
    REPORT_FILE,
    GATE_FILE,
    "captures",
    "repeats",
    "experiments",
    "logs",
    ".lock",
}
"""What a run folder may hold; a folder with anything else is not ours to replace."""


def diagnose(
    run: RunSpec,
    out: Path,
    overwrite: bool,
    on_event: OnEvent,
    after_task: AfterTask | None = None,
    cache: Path | None = None,
    budget_s: float | None = None,
) -> Findings:
    """Run everything and write `findings.json` and `report.html` to `out`.

    Args:
        run: what to diagnose.
        out: the run's folder.
        overwrite: replace a finished run.
        on_event: is told what happens.
        after_task: called with a worker task's name and the folder of its captures when it is
            done, or scored again (the scorecard plants faults of transport with it).
        cache: folder of captures of earlier tasks; see `executors.cache`.
        budget_s: seconds for experiments that look for the cause; None is the default.

    Raises:
        MismatchLabError: wrong input, or a side that could not be run.
    """
    for side in run.programs:
        if side.plugin is not None:
            check_plugin(side.plugin)
    prepare_folder(out, overwrite)
    with _locked(out), warm_workers():
        write_json(out / RUN_FILE, run)
        timings: dict[str, float] = {}
        models = [m for m in (run.infer.model, run.infer.weights_before) if m is not None]
        states = {model: checkpoint_state(model) for model in models}
        for name, task in plan_tasks(run, str((out / "captures").resolve())):
            timings[name] = run_cached(task, name, out / "logs", _timed(on_event, timings), cache)
            if after_task is not None:
                after_task(name, out / "captures")
            changed = [model for model in models if checkpoint_state(model) != states[model]]
            if changed:
                raise InputError(
                    f"{changed[0]} changed while the run read it: the sides may hold "
                    "different weights.",
                    "Diagnose a copy of the checkpoint, or wait until it is written.",
                )
        if start_s():
            timings["start.workers"] = start_s()  # the server that they are forked from
        repeats = measure_repeats(run, out, on_event, after_task, cache, timings)
        return finish(run, out, timings, on_event, budget_s, after_task, cache, repeats)


def finish(
    run: RunSpec,
    out: Path,
    timings_s: dict[str, float],
    on_event: OnEvent,
    budget_s: float | None = None,
    after_task: AfterTask | None = None,
    cache: Path | None = None,
    repeats: Sequence[Repeat] = (),
) -> Findings:
    """From captures to findings, causes and report."""
    from mismatch_lab.attribution.stage import with_causes
    from mismatch_lab.reporting.report import write_report

    on_event({"event": "stage", "text": "measuring"})
    began = time.perf_counter()
    captures = load_captures(out)
    findings = build_findings(run, captures, timings_s, repeats=repeats)
    timings_s["measure"] = time.perf_counter() - began
    if reference_check.is_due(run, findings):
        began = time.perf_counter()
        run_task = partial(run_cached, logs=out / "logs", on_event=on_event, cache=cache)
        run, captures, findings = _with_reference_checked(
            run, out, captures, findings, run_task, repeats
        )
        timings_s["reference check"] = time.perf_counter() - began
    began = time.perf_counter()
    findings = with_causes(run, out, captures, findings, on_event, budget_s, after_task)
    timings_s["attribute"] = time.perf_counter() - began
    write_json(out / FINDINGS_FILE, findings.model_copy(update={"timings_s": timings_s}))
    on_event({"event": "stage", "text": "writing the report"})
    began = time.perf_counter()
    write_report(out)
    timings_s["report"] = time.perf_counter() - began
    findings = findings.model_copy(update={"timings_s": timings_s})
    write_json(out / FINDINGS_FILE, findings)
    return findings


def _with_reference_checked(
    run: RunSpec,
    out: Path,
    captures: dict[str, Capture],
    findings: Findings,
    run_task: reference_check.RunTask,
    repeats: Sequence[Repeat],
) -> tuple[RunSpec, dict[str, Capture], Findings]:
    """The same, measured against a reference that holds, or with the side left open."""
    assert findings.noise_floor is not None
    folder = out / "captures"
    noise_nats = noise_of(findings.noise_floor, run.probe.limits)
    found = reference_check.check(run, captures, folder, noise_nats, run_task)
    if found.outcome == "contradicts":
        run, found = reference_check.by_definition(run, found, folder, run_task)
        write_json(out / RUN_FILE, run)
        captures = load_captures(out)
    return run, captures, build_findings(run, captures, findings.timings_s, found, repeats)


def prepare_folder(out: Path, overwrite: bool) -> None:
    """An empty folder for the run; what a killed run left of itself is swept away.

    Raises:
        InputError: `out` holds a finished run and `overwrite` is not given, or other files.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file.", "Choose another --out.")
    if out.is_dir():
        strangers = sorted(p.name for p in out.iterdir() if p.name not in OURS and not _ours(p))
        if strangers:
            raise InputError(
                f"{out} holds {strangers[0]!r}: not a run folder.", "Choose another --out."
            )
        if (out / FINDINGS_FILE).exists() and not overwrite:
            raise InputError(
                f"{out} holds a finished run.", "Add --overwrite, or choose another --out."
            )
        with _locked(out):
            for path in out.iterdir():
                if path.name != ".lock":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{out} cannot be made: {error.strerror}.", "Choose another --out."
        ) from error


def _ours(path: Path) -> bool:
    return path.name.endswith(".tmp")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One program at a time in a run folder."""
    with (out / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"Another mismatch-lab is writing to {out}.", "Choose another --out."
            ) from error
        yield


def _timed(on_event: OnEvent, timings_s: dict[str, float]) -> OnEvent:
    def handle(event: dict[str, Any]) -> None:
        if event["event"] == "captured":
            timings_s[f"capture.{event['id']}"] = event["wall_s"]
        elif event["event"] == "started":
            key = f"start.{event['side']}"
            timings_s[key] = timings_s.get(key, 0.0) + event["wall_s"]
        on_event(event)

    return handle
