"""The command line: parse, call, print, set the exit code. Nothing heavy is imported here."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal, NoReturn

import typer

from mismatch_lab import __version__
from mismatch_lab.errors import InputError, MismatchLabError
from mismatch_lab.trainer.command import train

EXIT_DONE, EXIT_FAILED, EXIT_NOT_MEASURED, EXIT_INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    help="Find out why the sampler and the trainer of an RL run disagree, with evidence.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")]
ArgsOption = list[str]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Options before any command."""
    if version:
        typer.echo(f"mismatch-lab {__version__}")
        raise typer.Exit


@app.command()
def diagnose(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or hub name.")] = "mini-gpt-oss",
    probe: Annotated[
        str, typer.Option(help="Probe, by name or .toml file; see `list probes`.")
    ] = "quick",
    engine: Annotated[
        ArgsOption | None,
        typer.Option(
            help="Program that samples; a second one scores what it sampled. See `list engines`.",
            show_default="vllm",
        ),
    ] = None,
    trainer: Annotated[str, typer.Option(help="Program that trains: fsdp or hf.")] = "fsdp",
    out: Annotated[
        Path | None, typer.Option(help="Run folder; by default a new one in runs/.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a finished run.")] = False,
    dtype: Annotated[
        str | None, typer.Option(help="Of both sides; by default the checkpoint's.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="JSONL with messages, text or token_ids.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="New tokens per prompt.")] = None,
    temperature: Annotated[float | None, typer.Option(min=1e-3)] = None,
    top_p: Annotated[float | None, typer.Option(min=1e-6, max=1.0)] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sampling.")] = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a prompt of the probe long-context.")
    ] = None,
    engine_config: Annotated[
        Path | None,
        typer.Option(help="File that configures it: of vLLM, SGLang, verl, TRL, prime-rl, slime."),
    ] = None,
    engine_arg: Annotated[
        ArgsOption | None,
        typer.Option(help="NAME=VALUE, over the file; ENGINE:NAME=VALUE of two; repeatable."),
    ] = None,
    trainer_arg: Annotated[ArgsOption | None, typer.Option(help="NAME=VALUE; repeatable.")] = None,
    engine_python: Annotated[
        ArgsOption | None, typer.Option(help="Interpreter of the engine; ENGINE:PATH of two.")
    ] = None,
    trainer_python: Annotated[str | None, typer.Option(help="Interpreter of the trainer.")] = None,
    engine_url: Annotated[
        ArgsOption | None,
        typer.Option(help="Server that runs already, vLLM's or SGLang's; repeatable."),
    ] = None,
    engine_plugin: Annotated[
        ArgsOption | None,
        typer.Option(
            help="FILE.py:FUNC, called with the module; may return another. "
            "ENGINE:FILE.py:FUNC of two."
        ),
    ] = None,
    trainer_plugin: Annotated[
        str | None, typer.Option(help="FILE.py:FUNC, called with the module; may return another.")
    ] = None,
    depth: Annotated[
        str | None, typer.Option(help="quick, standard (hidden states) or deep.")
    ] = None,
    weights_before: Annotated[
        str | None, typer.Option(help="Checkpoint folder from before the last weight update.")
    ] = None,
    weight_update: Annotated[
        str | None,
        typer.Option(
            help="Start on those, update by reload_weights, weights_iterator or weight_transfer."
        ),
    ] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code")] = False,
    repeats: Annotated[
        int, typer.Option(min=1, help="Measure so often: engines started anew, other seeds.")
    ] = 1,
    budget: Annotated[
        float | None, typer.Option(help="Seconds for experiments that look for the cause.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done; run nothing.")
    ] = False,
    json_output: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Run both sides on the same prompts, measure every edge, and name what is wrong."""
    from mismatch_lab import commands
    from mismatch_lab.engine_words import options_of_engines
    from mismatch_lab.request import DiagnoseRequest

    first, second = options_of_engines(
        *(given or () for given in (engine, engine_arg, engine_python, engine_plugin, engine_url))
    )
    request = DiagnoseRequest(
        model,
        probe,
        first.engine,
        trainer,
        dtype,
        prompts,
        max_tokens,
        temperature,
        top_p,
        seed,
        first.args,
        tuple(trainer_arg or ()),
        first.python,
        trainer_python,
        first.plugin,
        trainer_plugin,
        _depth(depth),
        trust_remote_code,
        ("mismatch-lab", *sys.argv[1:]),
        weights_before,
        weight_update,
        repeats,
        engine_config,
        context,
        first.urls,
        second,
    )
    if dry_run:
        commands.run_dry(request, json_output, budget)
    else:
        commands.run_diagnose(request, out, overwrite, json_output, budget)


@app.command()
def capture(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or hub name.")],
    out: Annotated[Path, typer.Option(help="Capture folder to write.")],
    engine: Annotated[str, typer.Option(help="Program that samples or scores.")] = "vllm",
    score: Annotated[Path | None, typer.Option(help="Capture whose tokens are scored.")] = None,
    probe: Annotated[
        str, typer.Option(help="Prompts and sampling, where nothing is scored.")
    ] = "quick",
    dtype: Annotated[str | None, typer.Option(help="By default the checkpoint's.")] = None,
    arg: Annotated[ArgsOption | None, typer.Option(help="NAME=VALUE; repeatable.")] = None,
    python: Annotated[str | None, typer.Option(help="Interpreter to run it in.")] = None,
    url: Annotated[
        ArgsOption | None, typer.Option(help="Server that runs already; repeatable.")
    ] = None,
    plugin: Annotated[
        str | None, typer.Option(help="FILE.py:FUNC, called with the module; may return another.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Record one side alone: sample with it, or score the tokens of another capture."""
    from mismatch_lab import commands

    urls = tuple(url or ())
    commands.run_capture(
        model, out, engine, score, probe, dtype, tuple(arg or ()), python, plugin, urls
    )


@app.command()
def compare(
    infer: Annotated[
        Path,
        typer.Argument(help="The engine's capture; or arrays, .npz or .csv, of one side or both."),
    ],
    train: Annotated[Path | None, typer.Argument(help="The trainer's, of the same tokens.")] = None,
    json_output: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure two captures against each other; nothing else is needed."""
    from mismatch_lab import commands

    commands.run_compare(infer, train, json_output)


@app.command()
def gate(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Run folder; or an engine's and a trainer's capture."),
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Diagnose first: 'MODEL --engine …', as for `diagnose`.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder of --run.")] = None,
    rules: Annotated[
        Path | None, typer.Option(help="TOML file of rules.", show_default="the package's own")
    ] = None,
    baseline: Annotated[Path | None, typer.Option(help="Earlier run to compare with.")] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Write the run as the baseline; say what changed.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Accept a run that fails its rules.")
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


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    debug: DebugOption = False,
) -> None:
    """Write the HTML report of a finished run anew."""
    from mismatch_lab import commands

    commands.run_report(run)


@app.command("list")
def list_(
    what: Annotated[
        Literal["engines", "probes", "measures", "causes", "knobs", "faults", "fixes"],
        typer.Argument(),
    ],
    debug: DebugOption = False,
) -> None:
    """What there is to choose from."""
    from mismatch_lab import catalogue

    catalogue.print_list(what)


@app.command()
def explain(
    name: Annotated[
        str, typer.Argument(help="A cause, fault, fix, probe, measure, edge or engine.")
    ],
    debug: DebugOption = False,
) -> None:
    """What a name means."""
    from mismatch_lab import catalogue

    catalogue.print_explanation(name)


@app.command()
def scorecard(
    subset: Annotated[
        list[str] | None,
        typer.Option(help="ci, quick, broad, full, or a fault, control or case; repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the card; an unfinished one goes on.")
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option(help="Architecture; repeatable, by default all.")
    ] = None,
    severity: Annotated[
        list[str] | None, typer.Option(help="plain, medium or slight; repeatable.")
    ] = None,
    part: Annotated[str, typer.Option(help="I/N: every N-th case from the I-th on.")] = "1/1",
    workers: Annotated[int, typer.Option(min=1, help="Cases at a time.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each; see `diagnose`.")] = 1,
    engine: Annotated[str, typer.Option(help="vllm, sglang or hf.")] = "vllm",
    dtype: Annotated[
        str | None, typer.Option(help="Of the faults that show in it: float32 or bfloat16.")
    ] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Folder of the trained models; missing ones are trained.")
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


app.command()(train)


@app.command()
def doctor(debug: DebugOption = False) -> None:
    """What is installed here, and what would run."""
    from mismatch_lab import doctor as checks

    checks.print_report()


def _depth(depth: str | None) -> Literal["quick", "standard", "deep"] | None:
    if depth is not None and depth not in ("quick", "standard", "deep"):
        raise InputError(f"Unknown depth {depth!r}.", "Available: quick, standard, deep.")
    return depth  # type: ignore[return-value]


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
        typer.secho(f"error: {type(error).__name__}: {error}", fg="red", err=True)
        typer.echo("This is a defect of mismatch-lab; --debug shows where.", err=True)
        return EXIT_NOT_MEASURED
    return EXIT_DONE


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
