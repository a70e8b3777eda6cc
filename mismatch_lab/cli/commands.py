"""What the commands do, once their options are parsed."""

from __future__ import annotations

import math
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from mismatch_lab.captures.arrays import is_arrays
from mismatch_lab.captures.store import MANIFEST, load_capture
from mismatch_lab.checkpoints.config import check_model_path, resolve_model_path
from mismatch_lab.cli import console as view
from mismatch_lab.engines.http.address import checked_urls
from mismatch_lab.engines.interpreters import interpreter
from mismatch_lab.engines.jobs import GenerateJob, Job, ScoreJob, Stage, WorkerTask
from mismatch_lab.engines.options import check_options
from mismatch_lab.errors import CaptureError, EngineError, InputError
from mismatch_lab.executors.local import run_task
from mismatch_lab.findings.next_command import resuming
from mismatch_lab.probes.suites import load_probe
from mismatch_lab.probes.thresholds import prompts_of
from mismatch_lab.run.diagnose import FINDINGS_FILE, REPORT_FILE, RUN_FILE, diagnose
from mismatch_lab.run.request import (
    DiagnoseRequest,
    build_run,
    check_engine,
    parse_args,
    resolve_dtype,
)
from mismatch_lab.schema import Findings, RunSpec, SideSpec


def run_diagnose(
    request: DiagnoseRequest,
    out: Path | None,
    overwrite: bool,
    json_output: bool,
    budget_s: float | None = None,
    resume: bool = False,
) -> None:
    """Diagnose and print the summary.

    Raises:
        InputError: --resume without the run's folder, or beside --overwrite.
        KeyboardInterrupt: it was interrupted; the command that goes on has been printed.
    """
    check_budget(budget_s)
    if resume and (out is None or overwrite):
        raise InputError(
            "--resume beside --overwrite says two things."
            if overwrite
            else "--resume needs --out: the folder of the run.",
            "Leave --overwrite out." if overwrite else "It is what the killed run was given.",
        )
    run = build_run(request)
    folder = out if out is not None else Path("runs") / run.id
    try:
        with view.progress(Console(stderr=True)) as on_event:
            findings = diagnose(run, folder, overwrite, on_event, budget_s=budget_s, resume=resume)
    except KeyboardInterrupt:
        if (folder / RUN_FILE).is_file() and not (folder / FINDINGS_FILE).is_file():
            print(f"to go on: {resuming(request.command, str(folder))}", file=sys.stderr)
        raise
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


REPEATABLE = {
    "engine_args": "engine_arg",
    "trainer_args": "trainer_arg",
    "engine_urls": "engine_url",
    "second": "engine",
}
"""Field of a `DiagnoseRequest` -> its option, where that is named otherwise."""


def run_recorded(
    request: DiagnoseRequest,
    paths: tuple[Path, ...],
    sample: int | None,
    dry_run: bool,
    out: Path | None,
    overwrite: bool,
    json_output: bool,
    budget_s: float | None = None,
) -> None:
    """Diagnose what was recorded, and print the summary.

    Raises:
        InputError: an option that starts a side, which a record has no use for; or no record.
    """
    from mismatch_lab.run import recorded

    if not paths:
        option = "--sample takes rows" if sample is not None else "--rescore scores the tokens"
        raise InputError(f"{option} of a record.", "Add --captures, or leave it out.")
    if dry_run:
        raise InputError(
            "--dry-run is of a run; of --captures nothing but the reference is run.",
            "Leave one of them out.",
        )

    check_budget(budget_s)
    says = recorded.OPTIONS | (recorded.OF_RESCORING if request.rescore else frozenset())
    for field in fields(DiagnoseRequest):
        value = getattr(request, field.name)
        if field.name not in says and value != field.default:
            option = REPEATABLE.get(field.name, field.name).replace("_", "-")
            raise InputError(
                f"--{option} says how a side is run; --captures has what both sides said.",
                f"Leave --{option} out, or --captures.",
            )
    record = recorded.read_record(paths)
    found = recorded.without_reference(record, paths)
    if found is not None:
        _print_findings(found, json_output)
        return
    rows = recorded.drawn_rows(
        recorded.looked_into(record), sample or recorded.ROWS, request.seed or 0
    )
    run = recorded.build_recorded_run(request, rows)
    folder = out if out is not None else Path("runs") / run.id
    recorded.check_out(folder, paths)
    with view.progress(Console(stderr=True)) as on_event:
        findings = recorded.diagnose_recorded(run, rows, folder, overwrite, on_event, budget_s)
    if json_output:
        print((folder / FINDINGS_FILE).read_text(encoding="utf-8"))
    else:
        view.summary(Console(), findings, folder / REPORT_FILE)


def run_dry(request: DiagnoseRequest, json_output: bool, budget_s: float | None = None) -> None:
    """Print what `diagnose` would do."""
    from mismatch_lab.cli.dry_run_lines import print_plan
    from mismatch_lab.run.dry_run import plan_run

    check_budget(budget_s)
    run = build_run(request)
    plan = plan_run(run, budget_s)
    for line in not_installed(run):
        Console(stderr=True).print(Text(line, "yellow"), soft_wrap=True)
    if json_output:
        print(plan.model_dump_json(indent=1))
    else:
        print_plan(Console(), plan)


def not_installed(run: RunSpec) -> list[str]:
    """A sentence for each engine of a run that this interpreter cannot start."""
    from mismatch_lab.cli.doctor import NEEDS

    found = {}
    for side in (*run.programs, run.ref):
        module, how = NEEDS.get(side.engine, ("", ""))
        if side.python is None and module and find_spec(module) is None:
            found[side.engine] = f"{side.engine} is not installed here: {how}"
    return list(found.values())


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
    check_model_path(resolve_model_path(model))
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


def run_compare(
    infer: Path,
    train: Path | None,
    json_output: bool,
    out: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Two captures against each other, or arrays of a file or two; `out` is for the report."""
    from mismatch_lab.run import compared

    paths = (infer,) if train is None else (infer, train)
    record, findings = compared.compare_record(paths)
    report = None
    if out is not None:
        report = compared.write_comparison(record, findings, paths, out, overwrite)
    _print_findings(findings, json_output, report)


def _print_findings(findings: Findings, json_output: bool, report: Path | None = None) -> None:
    if json_output:
        print(findings.model_dump_json(indent=1))
    else:
        view.summary(Console(), findings, report)


def run_report(path: Path, train: Path | None, out: Path | None, overwrite: bool) -> None:
    """Write a run's report anew; of a record, compare its sides and write the report of that."""
    from mismatch_lab.run import compared

    if train is None and not is_arrays(path) and not _is_record(path):
        if out is not None:
            raise InputError(
                "--out is of a record: a run's report stands in the run.", "Leave --out out."
            )
        if not (path / FINDINGS_FILE).is_file() or (path / RUN_FILE).is_file():
            load_run(path)
        from mismatch_lab.report.page import write_report

        report = write_report(path)
    else:
        paths = (path,) if train is None else (path, train)
        record, findings = compared.compare_record(paths)
        folder = out if out is not None else compared.folder_of(path)
        report = compared.write_comparison(record, findings, paths, folder, overwrite)
    Console().print(f"report: {report}", highlight=False, soft_wrap=True)


def _is_record(folder: Path) -> bool:
    """Whether a folder holds captures, and is no run's."""
    return not (folder / FINDINGS_FILE).is_file() and any(folder.glob(f"*/{MANIFEST}"))


def _what_it_is(folder: Path) -> str:
    """What to do with a folder that another command has made."""
    if (folder / "train.json").is_file():
        return (
            "It is a training's: its numbers are in metrics.jsonl, a line a step. "
            "`mismatch-lab train TASK --compare ARM,ARM` trains several and writes a report of "
            "them; `train --tensorboard` writes curves of one."
        )
    if (folder / "comparison.json").is_file():
        return (
            f"It is a comparison of trainings; its report is {folder / 'comparison.html'}. The "
            f"same `train … --compare` with --out {folder} writes it anew."
        )
    if (folder / "manifest.json").is_file():
        return "It is a capture: `mismatch-lab compare` holds two of them against each other."
    return "Name the --out of a `mismatch-lab diagnose`."


def load_run(run_dir: Path) -> RunSpec:
    """run.json of a finished run.

    Raises:
        InputError: not a run folder, or the run did not finish.
        CaptureError: run.json is not one that this version reads.
    """
    path = run_dir / RUN_FILE
    if not path.is_file():
        raise InputError(
            f"{run_dir} is not a run folder: it has no {RUN_FILE}.", _what_it_is(run_dir)
        )
    if not (run_dir / FINDINGS_FILE).is_file():
        raise InputError(f"{run_dir} did not finish: no {FINDINGS_FILE}.", "Diagnose again.")
    try:
        return RunSpec.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise CaptureError(f"{path} cannot be read by this version: {error}") from error
