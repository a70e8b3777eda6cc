"""The command line: parse, call, print, set the exit code. Nothing heavy is imported here."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal, NoReturn

import typer

from mismatch_lab import __version__
from mismatch_lab.cli.diagnose import diagnose
from mismatch_lab.cli.help import (
    ArgsOption,
    CasesOption,
    DebugOption,
    EffortOption,
    EngineOption,
    GroupedCommand,
    JsonOption,
    JudgedOption,
    PromptsOption,
    RulesOption,
    examples,
)
from mismatch_lab.cli.ingest import ingest
from mismatch_lab.errors import DISK_FULL, MismatchLabError, is_disk_full
from mismatch_lab.trainer.command import train

EXIT_DONE, EXIT_FAILED, EXIT_NOT_MEASURED, EXIT_INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    help="Find out why the sampler and the trainer of an RL run disagree, with evidence.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Options before any command."""
    if version:
        typer.echo(f"mismatch-lab {__version__}")
        raise typer.Exit


app.command(
    cls=GroupedCommand,
    epilog=examples(
        "diagnose CHECKPOINT --depth standard",
        "diagnose CHECKPOINT --prompts mine.jsonl --engine-arg kv_cache_dtype=fp8",
        "diagnose mini-gpt-oss --trainer-plugin examples/plugins.py:drop_sinks",
    ),
)(diagnose)


@app.command(
    cls=GroupedCommand,
    epilog=examples(
        "capture CHECKPOINT --engine vllm --out engine-side",
        "capture CHECKPOINT --engine fsdp --score engine-side --out trainer-side",
    ),
)
def capture(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or hub name.")],
    out: Annotated[Path, typer.Option(help="Capture folder to write.")],
    engine: Annotated[str, EngineOption(help="Program that samples or scores.")] = "vllm",
    score: Annotated[Path | None, PromptsOption(help="Capture whose tokens are scored.")] = None,
    probe: Annotated[
        str, PromptsOption(help="Prompts and sampling, where nothing is scored.")
    ] = "quick",
    dtype: Annotated[str | None, PromptsOption(help="By default the checkpoint's.")] = None,
    arg: Annotated[ArgsOption | None, EngineOption(help="NAME=VALUE; repeatable.")] = None,
    python: Annotated[str | None, EngineOption(help="Interpreter to run it in.")] = None,
    url: Annotated[
        ArgsOption | None, EngineOption(help="Server that runs already; repeatable.")
    ] = None,
    plugin: Annotated[
        str | None, EngineOption(help="FILE.py:FUNC, called with the module; may return another.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Record one side alone: sample with it, or score the tokens of another capture."""
    from mismatch_lab.cli import commands

    urls = tuple(url or ())
    commands.run_capture(
        model, out, engine, score, probe, dtype, tuple(arg or ()), python, plugin, urls
    )


@app.command(
    cls=GroupedCommand,
    epilog=examples("compare engine-side trainer-side", "compare rollouts.npz --out runs/compared"),
)
def compare(
    infer: Annotated[
        Path,
        typer.Argument(
            help="The engine's capture, a folder with both sides', or arrays: .npz, .csv, .parquet."
        ),
    ],
    train: Annotated[Path | None, typer.Argument(help="The trainer's, of the same tokens.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for findings.json and report.html.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a finished run.")] = False,
    json_output: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure two captures against each other; nothing else is needed."""
    from mismatch_lab.cli import commands

    commands.run_compare(infer, train, json_output, out, overwrite)


app.command(
    cls=GroupedCommand,
    epilog=examples(
        "ingest nemo-rl logs/exp_001 --out record --temperature 1 --top-p 1 --top-k 0 --min-p 0",
        "ingest slime dump-details --out record --steps 3:7 --sample 256 --temperature 0.8 "
        "--top-p 1 --top-k 0 --min-p 0 --logprobs processed",
    ),
)(ingest)


@app.command(
    cls=GroupedCommand,
    epilog=examples(
        "gate runs/diagnose",
        'gate --run "CHECKPOINT --dtype bfloat16" --baseline parity.json --accept',
        'gate --run "CHECKPOINT --dtype bfloat16" --baseline parity.json --junit parity.xml',
    ),
)
def gate(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Run folder; or an engine's and a trainer's capture."),
    ] = None,
    run: Annotated[
        str | None, JudgedOption(help="Diagnose first: 'MODEL --engine …', as for `diagnose`.")
    ] = None,
    out: Annotated[Path | None, JudgedOption(help="Run folder of --run.")] = None,
    rules: Annotated[
        Path | None, RulesOption(help="TOML file of rules.", show_default="the package's own")
    ] = None,
    baseline: Annotated[Path | None, RulesOption(help="Earlier run to compare with.")] = None,
    accept: Annotated[
        bool, RulesOption("--accept", help="Write the run as the baseline; say what changed.")
    ] = False,
    force: Annotated[
        bool, RulesOption("--force", help="Accept a run that fails its rules.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="JUnit XML to write.")] = None,
    summary: Annotated[
        Path | None,
        typer.Option(envvar="GITHUB_STEP_SUMMARY", help="Markdown file to add to."),
    ] = None,
    json_output: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Pass or fail a run by rules: 0 passed, 1 failed, 2 could not be measured."""
    from mismatch_lab.gate import command

    request = command.GateRequest(
        tuple(paths or ()),
        command.split_options(run),
        out,
        rules,
        baseline,
        accept,
        force,
        junit,
        summary,
    )
    raise typer.Exit(command.run_gate(request, json_output))


@app.command(cls=GroupedCommand, epilog=examples("report runs/diagnose", "report rollouts.npz"))
def report(
    path: Annotated[
        Path,
        typer.Argument(help="Run folder; or a record: captures, or arrays, as for `compare`."),
    ],
    train: Annotated[Path | None, typer.Argument(help="The trainer's, of a record.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for a record's report.", show_default="one in runs/"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a finished run.")] = False,
    debug: DebugOption = False,
) -> None:
    """Write the HTML report of a finished run anew, or that of a record."""
    from mismatch_lab.cli import commands

    commands.run_report(path, train, out, overwrite)


@app.command("list", cls=GroupedCommand, epilog=examples("list causes", "list probes"))
def list_(
    what: Annotated[
        Literal[
            "engines", "probes", "measures", "causes", "experiments", "faults", "fixes", "formats"
        ],
        typer.Argument(),
    ],
    debug: DebugOption = False,
) -> None:
    """What there is to choose from."""
    from mismatch_lab.cli import catalogue

    catalogue.print_list(what)


@app.command(cls=GroupedCommand, epilog=examples("explain attention-sinks-dropped", "explain vllm"))
def explain(
    name: Annotated[
        str,
        typer.Argument(
            help="A cause, fault, fix, experiment, probe, measure, edge, engine or format."
        ),
    ],
    debug: DebugOption = False,
) -> None:
    """What a name means."""
    from mismatch_lab.cli import catalogue

    catalogue.print_explanation(name)


@app.command(
    cls=GroupedCommand,
    epilog=examples(
        "scorecard --subset ci --check", "scorecard --subset sinks-dropped --engine hf --list"
    ),
)
def scorecard(
    subset: Annotated[
        list[str] | None,
        CasesOption(help="ci, quick, broad, full, or a fault, control or case; repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the card; an unfinished one goes on.")
    ] = None,
    models: Annotated[
        list[str] | None, CasesOption(help="Architecture; repeatable, by default all.")
    ] = None,
    severity: Annotated[
        list[str] | None, CasesOption(help="plain, medium or slight; repeatable.")
    ] = None,
    part: Annotated[str, CasesOption(help="I/N: every N-th case from the I-th on.")] = "1/1",
    workers: Annotated[int, EffortOption(min=1, help="Cases at a time.")] = 1,
    repeats: Annotated[int, EffortOption(min=1, help="Runs of each; see `diagnose`.")] = 1,
    engine: Annotated[str, CasesOption(help="vllm, sglang or hf.")] = "vllm",
    dtype: Annotated[
        str | None, CasesOption(help="Of the faults that show in it: float32 or bfloat16.")
    ] = None,
    checkpoints: Annotated[
        Path | None, EffortOption(help="Folder of the trained models; missing ones are trained.")
    ] = None,
    keep_runs: Annotated[
        bool, typer.Option("--keep-runs", help="Keep the run folder of each case.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Run cases again that have a result.")
    ] = False,
    list_only: Annotated[bool, typer.Option("--list", help="Print the cases and end.")] = False,
    render_only: Annotated[
        bool, typer.Option("--render-only", help="Write the card of what there is; run nothing.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit code 1 where an aim is missed.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Plant faults, let `diagnose` find them, and count how often it is right."""
    from mismatch_lab.scorecard import command
    from mismatch_lab.scorecard.select import Selection

    selection = Selection(
        tuple(subset or ("full",)), tuple(models or ()), tuple(severity or ()), dtype
    )
    aims_met = command.run_scorecard(
        command.ScorecardRequest(
            selection,
            part,
            out,
            engine,
            checkpoints,
            keep_runs,
            overwrite,
            list_only,
            render_only,
            workers,
            repeats,
            ("mismatch-lab", *sys.argv[1:]),
        )
    )
    if check and not aims_met:
        raise typer.Exit(EXIT_FAILED)


app.command(
    cls=GroupedCommand,
    epilog=examples(
        "train gsm8k --config examples/train_gsm8k.toml",
        "train gsm8k --fault sinks-dropped --fix attention-sinks --steps 8",
        "train gsm8k --compare healthy,broken,fixed --seeds 3 --workers 2",
    ),
)(train)


@app.command(cls=GroupedCommand, epilog=examples("doctor"))
def doctor(debug: DebugOption = False) -> None:
    """What is installed here, and what would run."""
    from mismatch_lab.cli import doctor as checks

    checks.print_report()


def main() -> NoReturn:
    """Entry point: errors of ours are two lines and exit code 2."""
    signal.signal(signal.SIGTERM, _terminated)
    code = _run()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        from mismatch_lab.trainer.ranks import end

        end(code)
    sys.exit(code)


def _run() -> int:
    """Run the command; its exit code."""
    debug = "--debug" in sys.argv
    try:
        app(standalone_mode=True)
    except MismatchLabError as error:
        if debug:
            traceback.print_exc()
        typer.secho(f"error: {error.problem}", fg="red", err=True)
        if error.hint:
            typer.echo(error.hint, err=True)
        return EXIT_NOT_MEASURED
    except SystemExit as ended:
        if ended.code == EXIT_INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            typer.echo("interrupted: nothing half-written is left.", err=True)
        return ended.code if isinstance(ended.code, int) else EXIT_DONE
    except Exception as error:
        if debug:
            traceback.print_exc()
        problem, hint = explained(error)
        typer.secho(f"error: {problem}", fg="red", err=True)
        typer.echo(hint, err=True)
        return EXIT_NOT_MEASURED
    return EXIT_DONE


def explained(error: Exception) -> tuple[str, str]:
    """What an exception that is none of ours says, and what to do about it."""
    if is_disk_full(error):
        return DISK_FULL
    missing = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    if missing and missing != "mismatch_lab" and find_spec(missing) is None:
        return (
            f"{missing} is needed for this and is not installed.",
            "pip install 'mismatch-lab[train]'; `mismatch-lab doctor` says what is there.",
        )
    return (
        f"{type(error).__name__}: {error}",
        "This is a defect of mismatch-lab; --debug shows where.",
    )


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
