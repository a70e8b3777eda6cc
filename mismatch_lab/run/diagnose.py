"""The main job: plan, capture both sides, measure, decide, report."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mismatch_lab.attribution.suspects import noise_of
from mismatch_lab.captures.capture import Capture
from mismatch_lab.checkpoints.config import checkpoint_state
from mismatch_lab.engines.jobs import WorkerTask
from mismatch_lab.engines.plan import plan_tasks
from mismatch_lab.engines.plugin import check_plugin
from mismatch_lab.errors import InputError
from mismatch_lab.executors.cache import run_cached
from mismatch_lab.executors.forked import forked_workers, start_s
from mismatch_lab.executors.kept import EXPERIMENTS, KEPT_FILE, KeptTasks, forget
from mismatch_lab.findings.build import build_findings, load_captures
from mismatch_lab.findings.edges import completed
from mismatch_lab.findings.over_runs import Repeat
from mismatch_lab.findings.record import copies
from mismatch_lab.findings.routing import of_routers
from mismatch_lab.run import reference_check
from mismatch_lab.run.repeats import FOLDER as REPEATS
from mismatch_lab.run.repeats import measure_repeats
from mismatch_lab.schema import Findings, RecordFindings, RunSpec, write_json
from mismatch_lab.schema.events import Captured, Event, OnEvent, StageBegan, Started

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
    EXPERIMENTS,
    KEPT_FILE,
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
    resume: bool = False,
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
        resume: go on with a run that was killed: what it measured is not measured again.

    Raises:
        MismatchLabError: wrong input, or a side that could not be run.
    """
    for side in run.programs:
        for reference in (side.plugin, side.program):
            if reference is not None:
                check_plugin(reference)
    if resume:
        check_unfinished(out)
        shutil.rmtree(out / REPEATS, ignore_errors=True)  # measured again: none of it is kept
    else:
        prepare_folder(out, overwrite)
    with locked(out), forked_workers():
        kept = KeptTasks(out)
        kept.sweep(out / "captures")
        write_json(out / RUN_FILE, run)
        timings: dict[str, float] = {}
        models = [m for m in (run.infer.model, run.infer.weights_before) if m is not None]
        states = {model: checkpoint_state(model) for model in models}
        for name, task in plan_tasks(run, str((out / "captures").resolve())):
            told = timed(on_event, timings)
            run_task = partial(run_cached, task, name, out / "logs", told, cache)
            timings[name] = kept.run(task, name, told, run_task)
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
        return finish(run, out, timings, on_event, budget_s, after_task, cache, repeats, kept)


def finish(
    run: RunSpec,
    out: Path,
    timings_s: dict[str, float],
    on_event: OnEvent,
    budget_s: float | None = None,
    after_task: AfterTask | None = None,
    cache: Path | None = None,
    repeats: Sequence[Repeat] = (),
    kept: KeptTasks | None = None,
    record: RecordFindings | None = None,
) -> Findings:
    """From captures to findings, causes and report; `record` is what a record says of itself."""
    from mismatch_lab.attribution.stage import with_causes
    from mismatch_lab.report.page import write_report

    on_event(StageBegan("measuring"))
    began = time.perf_counter()
    captures = completed(of_routers(load_captures(out)))
    findings = build_findings(run, captures, timings_s, repeats=repeats)
    findings = findings.model_copy(update={"record": record or copies(captures)})
    timings_s["measure"] = time.perf_counter() - began
    if reference_check.is_due(run, findings):
        began = time.perf_counter()
        kept = KeptTasks(out) if kept is None else kept

        def run_task(task: WorkerTask, name: str) -> float:
            again = partial(run_cached, task, name, out / "logs", on_event, cache)
            return kept.run(task, name, on_event, again)

        said = {"record": findings.record}
        run, captures, findings = _with_reference_checked(
            run, out, captures, findings, run_task, repeats
        )
        findings = findings.model_copy(update=said)
        timings_s["reference check"] = time.perf_counter() - began
    began = time.perf_counter()
    findings = with_causes(run, out, captures, findings, on_event, budget_s, after_task)
    timings_s["attribute"] = time.perf_counter() - began
    write_json(out / FINDINGS_FILE, findings.model_copy(update={"timings_s": timings_s}))
    on_event(StageBegan("writing the report"))
    began = time.perf_counter()
    write_report(out)
    timings_s["report"] = time.perf_counter() - began
    findings = findings.model_copy(update={"timings_s": timings_s})
    write_json(out / FINDINGS_FILE, findings)
    forget(out)
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
        captures = completed(of_routers(load_captures(out)))
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
        with locked(out):
            for path in out.iterdir():
                if path.name != ".lock":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{out} cannot be made: {error.strerror}.", "Choose another --out."
        ) from error


def check_unfinished(out: Path) -> None:
    """Raise InputError for a folder without a run that could go on."""
    if not (out / RUN_FILE).is_file():
        raise InputError(
            f"{out} holds no run that could go on: it has no {RUN_FILE}.",
            "Leave --resume out to start one there, or name the folder of the run.",
        )
    if (out / FINDINGS_FILE).is_file():
        raise InputError(
            f"{out} holds a finished run.", "Leave --resume out; --overwrite measures it again."
        )


def _ours(path: Path) -> bool:
    return path.name.endswith(".tmp")


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """One program at a time in a run folder."""
    with (out / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"Another mismatch-lab is writing to {out}.", "Choose another --out."
            ) from error
        yield


def timed(on_event: OnEvent, timings_s: dict[str, float]) -> OnEvent:
    """The same, which also keeps how long captures and starts take."""

    def handle(event: Event) -> None:
        match event:
            case Captured():
                timings_s[f"capture.{event.id}"] = event.wall_s
            case Started():
                key = f"start.{event.side}"
                timings_s[key] = timings_s.get(key, 0.0) + event.wall_s
        on_event(event)

    return handle
