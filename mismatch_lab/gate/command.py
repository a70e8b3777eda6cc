"""What `mismatch-lab gate` does, once its options are parsed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mismatch_lab.errors import InputError, MismatchLabError
from mismatch_lab.gate import outputs
from mismatch_lab.gate.baseline import (
    Baseline,
    baseline_of,
    changes,
    read_baseline,
    write_baseline,
)
from mismatch_lab.gate.judge import GateResult, RuleResult, judge
from mismatch_lab.gate.record import Record, read_record, record_of_captures
from mismatch_lab.gate.rules import default_rules, load_rules
from mismatch_lab.run.diagnose import GATE_FILE, REPORT_FILE
from mismatch_lab.schema import write_json

CHANGES_SHOWN = 40


@dataclass(frozen=True)
class GateRequest:
    """The options of `gate`, as typed."""

    paths: tuple[Path, ...] = ()
    """A run folder, or two captures."""
    run: tuple[str, ...] | None = None
    """What to give to `diagnose`."""
    out: Path | None = None
    rules: Path | None = None
    baseline: Path | None = None
    accept: bool = False
    force: bool = False
    junit: Path | None = None
    summary: Path | None = None


def run_gate(request: GateRequest, json_output: bool) -> int:
    """Judge, write and print; the exit code.

    Raises:
        MismatchLabError: wrong input. What could not be measured is written to every output first.
    """
    _check(request)
    try:
        result, record = gate(request)
    except MismatchLabError as error:
        unmeasured = _not_measured(request, error)
        _write(request, unmeasured, None)
        _annotate(unmeasured)
        raise
    report = report_of(record)
    _write(request, result, report)
    _annotate(result)
    if json_output:
        print(result.model_dump_json(indent=1))
    else:
        outputs.print_result(Console(), result, report)
    if request.accept:
        return _accept(request, result, record, Console(stderr=json_output))
    return result.exit_code


def split_options(options: str | None) -> tuple[str, ...] | None:
    """`--run` as the shell would split it.

    Raises:
        InputError: a quotation is not closed.
    """
    try:
        return None if options is None else tuple(shlex.split(options))
    except ValueError as error:
        raise InputError(f"--run {options!r}: {error}.") from error


def gate(request: GateRequest) -> tuple[GateResult, Record]:
    """What is judged, and the judgement; with `accept`, of all but the old baseline.

    Raises:
        MismatchLabError: wrong rules, a baseline that is none, or nothing that could be judged.
    """
    rules = default_rules() if request.rules is None else load_rules(request.rules)
    baseline = None
    if request.baseline is not None and not request.accept:
        baseline = read_baseline(request.baseline)
    record = _record(request)
    if request.accept:
        rules = rules.model_copy(update={"baseline": ()})
    return judge(record, rules, baseline), record


def _check(request: GateRequest) -> None:
    """Refuse options that do not go together.

    Raises:
        InputError: says which.
    """
    if request.run is not None and request.paths:
        raise InputError("--run and a run folder: which of them is to be judged?", "Give one.")
    if request.run is None and not 1 <= len(request.paths) <= 2:
        raise InputError(
            f"{len(request.paths)} folders to judge.",
            "Give a run folder, an engine's and a trainer's capture, or --run 'MODEL …'.",
        )
    if request.out is not None and request.run is None:
        raise InputError("--out is where --run writes its run.", "Add --run 'MODEL …'.")
    if request.accept and request.baseline is None:
        raise InputError("--accept writes a baseline.", "Name it: --baseline FILE.")
    if request.force and not request.accept:
        raise InputError("--force accepts a run that fails its rules.", "Add --accept.")


def _record(request: GateRequest) -> Record:
    if request.run is not None:
        return read_record(_diagnosed(request.run, request.out))
    if len(request.paths) == 2:
        return record_of_captures(*request.paths)
    return read_record(request.paths[0])


def _diagnosed(given: tuple[str, ...], out: Path | None) -> Path:
    """The folder of a run made now, in a process of its own: a crash of it is no pass.

    Raises:
        InputError: `diagnose` ended with an error.
    """
    if any(one == "--out" or one.startswith("--out=") for one in given):
        raise InputError("--run with an --out of its own.", "Give it to gate: --out RUN.")
    folder = out or Path("runs") / f"gate-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    command = [sys.executable, "-m", "mismatch_lab.cli", "diagnose", *given, "--out", str(folder)]
    ended = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if ended != 0:
        raise InputError(
            f"`mismatch-lab diagnose {shlex.join(given)}` ended with code {ended}.",
            "Nothing was measured; what it said stands above.",
        )
    return folder


def _not_measured(request: GateRequest, error: MismatchLabError) -> GateResult:
    message = " ".join(str(error).split())
    return GateResult(
        run=" ".join(request.run or map(str, request.paths)),
        outcome="not measured",
        headline=f"not measured (error): {message}",
        results=[RuleResult(name="record", outcome="error", message=message)],
        causes=[],
    )


def report_of(record: Record) -> Path | None:
    """The run's HTML report, where it has one."""
    report = record.folder / REPORT_FILE if record.folder is not None else None
    return report if report is not None and report.is_file() else None


def _write(request: GateRequest, result: GateResult, report: Path | None) -> None:
    if request.junit is not None:
        outputs.write_text(request.junit, outputs.junit(result))
    if request.summary is not None:
        outputs.write_text(request.summary, outputs.markdown(result, report), append=True)
    if report is not None:
        write_json(report.with_name(GATE_FILE), result)


def not_acceptable(request: GateRequest, result: GateResult) -> str:
    """Why a run is no baseline to keep; empty where it is one."""
    if any(one.outcome in ("error", "underpowered") for one in result.results):
        return "not accepted: a run that could not be measured is no baseline"
    if result.outcome == "failed" and not request.force:
        return "not accepted: the run fails its rules (--force accepts it all the same)"
    return ""


def _annotate(result: GateResult) -> None:
    """On stderr, so that stdout begins with the answer; GitHub reads both."""
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in outputs.workflow_commands(result):
            print(line, file=sys.stderr)


def _accept(request: GateRequest, result: GateResult, record: Record, console: Console) -> int:
    """Write the run as the baseline, say what changed; the exit code."""
    assert request.baseline is not None  # _check
    why_not = not_acceptable(request, result)
    if why_not:
        console.print(Text(why_not, "bold yellow"), soft_wrap=True)
        return result.exit_code
    old, new = _old(request.baseline, console), baseline_of(record)
    write_baseline(request.baseline, new)
    if old is not None:
        _print_changes(console, old, new)
    console.print(Text(f"accepted: {request.baseline}"), soft_wrap=True)
    return 0


def _old(path: Path, console: Console) -> Baseline | None:
    """The baseline that is to be replaced; one that cannot be read is said to be so."""
    if not path.exists():
        return None
    try:
        return read_baseline(path)
    except InputError as error:
        console.print(Text(error.problem, "yellow"), soft_wrap=True)
        return None


def _print_changes(console: Console, old: Baseline, new: Baseline) -> None:
    found = changes(old, new)
    if not found:
        console.print("nothing changed but the sequences")
        return
    table = Table("what changed", "before", "after", box=None, pad_edge=False)
    for row in found[:CHANGES_SHOWN]:
        table.add_row(*map(Text, row))
    console.print(table)
    if len(found) > CHANGES_SHOWN:
        console.print(f"and {len(found) - CHANGES_SHOWN} more; the file's diff has them")
