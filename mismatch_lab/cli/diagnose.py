"""`diagnose`: its options, and what they become."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from mismatch_lab.cli.help import (
    ArgsOption,
    DebugOption,
    EffortOption,
    EngineOption,
    JsonOption,
    PromptsOption,
    RecordOption,
    TrainerOption,
)
from mismatch_lab.errors import InputError


def diagnose(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or hub name.")] = "mini-gpt-oss",
    probe: Annotated[
        str, PromptsOption(help="Probe, by name or .toml file; see `list probes`.")
    ] = "quick",
    engine: Annotated[
        ArgsOption | None,
        EngineOption(
            help="Program that samples; a second one scores what it sampled. See `list engines`.",
            show_default="vllm",
        ),
    ] = None,
    trainer: Annotated[
        str, TrainerOption(help="Trains: fsdp, hf, trl, verl, or your own, FILE.py:FUNC.")
    ] = "fsdp",
    out: Annotated[
        Path | None, typer.Option(help="Run folder; by default a new one in runs/.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a finished run.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in --out with a run that was killed.")
    ] = False,
    dtype: Annotated[
        str | None, PromptsOption(help="Of both sides; by default the checkpoint's.")
    ] = None,
    prompts: Annotated[
        Path | None, PromptsOption(help="JSONL with messages, text or token_ids.")
    ] = None,
    max_tokens: Annotated[int | None, PromptsOption(min=1, help="New tokens per prompt.")] = None,
    temperature: Annotated[
        float | None, PromptsOption(min=1e-3, help="By default the probe's.")
    ] = None,
    top_p: Annotated[
        float | None, PromptsOption(min=1e-6, max=1.0, help="By default the probe's.")
    ] = None,
    seed: Annotated[int | None, PromptsOption(help="Of the sampling.")] = None,
    context: Annotated[
        int | None, PromptsOption(min=1, help="Tokens of a prompt of the probe long-context.")
    ] = None,
    engine_config: Annotated[
        Path | None,
        EngineOption(help="File that configures it: of vLLM, SGLang, verl, TRL, prime-rl, slime."),
    ] = None,
    engine_arg: Annotated[
        ArgsOption | None,
        EngineOption(help="NAME=VALUE, over the file; ENGINE:NAME=VALUE of two; repeatable."),
    ] = None,
    trainer_arg: Annotated[ArgsOption | None, TrainerOption(help="NAME=VALUE; repeatable.")] = None,
    engine_python: Annotated[
        ArgsOption | None, EngineOption(help="Interpreter of the engine; ENGINE:PATH of two.")
    ] = None,
    trainer_python: Annotated[str | None, TrainerOption(help="Interpreter of the trainer.")] = None,
    engine_url: Annotated[
        ArgsOption | None,
        EngineOption(help="Server that runs already, vLLM's or SGLang's; repeatable."),
    ] = None,
    engine_plugin: Annotated[
        ArgsOption | None,
        EngineOption(
            help="FILE.py:FUNC, called with the module; may return another. "
            "ENGINE:FILE.py:FUNC of two."
        ),
    ] = None,
    trainer_plugin: Annotated[
        str | None, TrainerOption(help="FILE.py:FUNC, called with the module; may return another.")
    ] = None,
    depth: Annotated[
        str | None, EffortOption(help="quick, standard (hidden states) or deep.")
    ] = None,
    weights_before: Annotated[
        str | None, EngineOption(help="Checkpoint folder from before the last weight update.")
    ] = None,
    weight_update: Annotated[
        str | None,
        EngineOption(
            help="Start on those, update by reload_weights, weights_iterator or weight_transfer."
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        PromptsOption("--trust-remote-code", help="Run the code that a checkpoint brings."),
    ] = False,
    captures: Annotated[
        list[Path] | None,
        RecordOption(
            help="Diagnose what was recorded: a folder of captures, .npz, .csv or .parquet; or the "
            "engine's, then the trainer's. Nothing but the reference is run."
        ),
    ] = None,
    sample: Annotated[
        int | None, RecordOption(min=1, help="Rows of --captures, drawn by --seed.")
    ] = None,
    rescore: Annotated[
        str | None,
        RecordOption(help="Score the tokens of --captures again by vllm, sglang, hf or a server."),
    ] = None,
    repeats: Annotated[
        int, EffortOption(min=1, help="Measure so often: engines started anew, other seeds.")
    ] = 1,
    budget: Annotated[
        float | None, EffortOption(help="Seconds for experiments that look for the cause.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done; run nothing.")
    ] = False,
    json_output: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Run both sides on the same prompts, measure every edge, and name what is wrong."""
    from mismatch_lab.cli import commands
    from mismatch_lab.run.engine_words import options_of_engines
    from mismatch_lab.run.request import DiagnoseRequest

    first, second = options_of_engines(
        *(given or () for given in (engine, engine_arg, engine_python, engine_plugin, engine_url))
    )
    request = DiagnoseRequest(
        model=model,
        probe=probe,
        engine=first.engine,
        trainer=trainer,
        dtype=dtype,
        prompts=prompts,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        engine_args=first.args,
        trainer_args=tuple(trainer_arg or ()),
        engine_python=first.python,
        trainer_python=trainer_python,
        engine_plugin=first.plugin,
        trainer_plugin=trainer_plugin,
        depth=_depth(depth),
        trust_remote_code=trust_remote_code,
        command=("mismatch-lab", *sys.argv[1:]),
        weights_before=weights_before,
        weight_update=weight_update,
        repeats=repeats,
        engine_config=engine_config,
        context=context,
        engine_urls=first.urls,
        second=second,
        rescore=rescore,
    )
    if captures or sample is not None or rescore is not None:
        if resume:
            raise InputError("--resume is of a run; --captures starts no side.", "Leave it out.")
        paths = tuple(captures or ())
        commands.run_recorded(request, paths, sample, dry_run, out, overwrite, json_output, budget)
        return
    if dry_run:
        commands.run_dry(request, json_output, budget)
    else:
        commands.run_diagnose(request, out, overwrite, json_output, budget, resume)


def _depth(depth: str | None) -> Literal["quick", "standard", "deep"] | None:
    if depth is not None and depth not in ("quick", "standard", "deep"):
        raise InputError(f"Unknown depth {depth!r}.", "Available: quick, standard, deep.")
    return depth  # type: ignore[return-value]
