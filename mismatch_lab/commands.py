"""What the commands do, once their options are parsed."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from mismatch_lab import console as view
from mismatch_lab.captures.arrays import is_arrays, read_pair
from mismatch_lab.captures.store import load_capture
from mismatch_lab.diagnose import FINDINGS_FILE, REPORT_FILE, RUN_FILE, diagnose
from mismatch_lab.engines.checkpoint import check_model_path, locate
from mismatch_lab.engines.http.address import checked_urls
from mismatch_lab.engines.interpreters import interpreter
from mismatch_lab.engines.jobs import GenerateJob, Job, ScoreJob, Stage, WorkerTask
from mismatch_lab.engines.options import check_options
from mismatch_lab.errors import CaptureError, EngineError, InputError
from mismatch_lab.executors.local import run_task
from mismatch_lab.findings.compare import compare_findings
from mismatch_lab.request import (
    DiagnoseRequest,
    build_run,
    check_engine,
    parse_args,
    resolve_dtype,
)
from mismatch_lab.schema import Findings, Limits, RunSpec, SideSpec
from mismatch_lab.suites import load_probe
from mismatch_lab.thresholds import prompts_of


def run_diagnose(
    request: DiagnoseRequest,
    out: Path | None,
    overwrite: bool,
    json_output: bool,
    budget_s: float | None = None,
) -> None:
    """Diagnose and print the summary."""
    check_budget(budget_s)
    run = build_run(request)
    folder = out if out is not None else Path("runs") / run.id
    with view.progress(Console(stderr=True)) as on_event:
        findings = diagnose(run, folder, overwrite, on_event, budget_s=budget_s)
    if json_output:
        print((folder / FINDINGS_FILE).read_text(encoding="utf-8"))
    else:
        view.summary(Console(), findings, folder / REPORT_FILE)
    failed = findings.over_runs.failed if findings.over_runs is not None else []
    if failed:
        numbers = ", ".join(str(record.run) for record in failed)
        raise EngineError(
            f"Run {numbers} of {run.repeats} failed: {failed[0].headline}",
            f"What the others measured is in {folder}; their verdict is above.",
        )


def run_dry(request: DiagnoseRequest, json_output: bool, budget_s: float | None = None) -> None:
    """Print what `diagnose` would do."""
    from mismatch_lab.dry_run import plan_run
    from mismatch_lab.dry_run_lines import print_plan

    check_budget(budget_s)
    plan = plan_run(build_run(request), budget_s)
    if json_output:
        print(plan.model_dump_json(indent=1))
    else:
        print_plan(Console(), plan)


def check_budget(budget_s: float | None) -> None:
    """Refuse what is no number of seconds.

    Raises:
        InputError: it is negative, or not finite.
    """
    if budget_s is not None and not (math.isfinite(budget_s) and budget_s >= 0):
        raise InputError(
            f"--budget {budget_s:g} is not a number of seconds.", "Use 0 for no experiments."
        )


def run_capture(
    model: str,
    out: Path,
    engine: str,
    score: Path | None,
    probe_name: str,
    dtype: str | None,
    args: tuple[str, ...],
    python: str | None,
    plugin: str | None,
    urls: tuple[str, ...] = (),
) -> None:
    """One side alone."""
    probe = load_probe(probe_name)
    check_model_path(locate(model))
    if out.exists():
        raise InputError(f"{out} already exists.", "Choose another --out.")
    side = "infer" if score is None else "train"
    spec = SideSpec(
        side=side,  # type: ignore[arg-type]
        engine=check_engine("http" if urls else engine),
        urls=checked_urls(urls),
        model=model,
        dtype=resolve_dtype(dtype, model),
        args=parse_args(args, "--arg"),
        plugin=plugin,
        python=interpreter(engine, python),
    )
    check_options(spec)
    if score is None:
        job: Job = GenerateJob(
            id=out.name, prompts=prompts_of(probe, spec), sampling=probe.sampling
        )
    else:
        _, manifest = load_capture(score)
        job = ScoreJob(
            id=out.name,
            source=str(score.resolve()),
            temperature=manifest.sampling.temperature if manifest.sampling else 1.0,
            plan=probe.capture,
            probes=True,
            routing=probe.capture.routing,
        )
    task = WorkerTask(captures_dir=str(out.resolve().parent), stages=[Stage(spec=spec, jobs=[job])])
    with view.progress(Console(stderr=True)) as on_event:
        run_task(task, f"{out.name}.{spec.engine}", out.resolve().parent, on_event)
    Console().print(f"capture: {out}", highlight=False, soft_wrap=True)


def run_compare(infer: Path, train: Path | None, json_output: bool) -> None:
    """Two captures against each other, or arrays of a file or two."""
    if is_arrays(infer):
        a, b = read_pair(infer, train)
        names = (str(infer), str(train or infer))
        findings = compare_findings(a, b, names, Limits())
    else:
        findings = _compared(infer, train)
    if json_output:
        print(findings.model_dump_json(indent=1))
    else:
        view.summary(Console(), findings, None)


def _compared(infer: Path, train: Path | None) -> Findings:
    if train is None:
        raise InputError("One capture has nothing to be compared with.", "Name the trainer's, too.")
    a, manifest_a = load_capture(infer)
    b, manifest_b = load_capture(train)
    findings = compare_findings(a, b, (str(infer), str(train)), Limits())
    if manifest_a.logprob_space == manifest_b.logprob_space:
        return findings
    note = f"One side is {manifest_a.logprob_space}, the other {manifest_b.logprob_space}."
    return findings.model_copy(update={"notes": [*findings.notes, note]})


def run_report(run_dir: Path) -> None:
    """Write a report anew."""
    load_run(run_dir)
    from mismatch_lab.reporting.report import write_report

    Console().print(f"report: {write_report(run_dir)}", highlight=False, soft_wrap=True)


def load_run(run_dir: Path) -> RunSpec:
    """run.json of a finished run.

    Raises:
        InputError: not a run folder, or the run did not finish.
        CaptureError: run.json is not one that this version reads.
    """
    path = run_dir / RUN_FILE
    if not path.is_file():
        raise InputError(f"{run_dir} is not a run folder: it has no {RUN_FILE}.")
    if not (run_dir / FINDINGS_FILE).is_file():
        raise InputError(f"{run_dir} did not finish: no {FINDINGS_FILE}.", "Diagnose again.")
    try:
        return RunSpec.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise CaptureError(f"{path} cannot be read by this version: {error}") from error
