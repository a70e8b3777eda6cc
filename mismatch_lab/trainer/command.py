"""`mismatch-lab train`: the command line of the trainer. Nothing heavy is imported here."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from mismatch_lab.errors import InputError

OptionList = list[str] | None

SettingsOption = partial(typer.Option, rich_help_panel="Settings")
CureOption = partial(typer.Option, rich_help_panel="Faults and fixes")
RunOption = partial(typer.Option, rich_help_panel="The run's folder")
CompareOption = partial(typer.Option, rich_help_panel="Several runs side by side")
PlanOption = partial(typer.Option, rich_help_panel="Memory, without a run")

SEEDS = 3
"""Of each arm, where nothing else is asked."""


def train(
    task: Annotated[str, typer.Argument(help="gsm8k, retool or verifyif.")],
    config: Annotated[
        Path | None, SettingsOption(help="TOML file with the run's settings.")
    ] = None,
    model: Annotated[str | None, SettingsOption(help="Checkpoint folder or hub name.")] = None,
    steps: Annotated[int | None, SettingsOption(min=1, help="Optimizer steps.")] = None,
    seed: Annotated[int | None, SettingsOption(help="Of problems, sampling and dropout.")] = None,
    dtype: Annotated[str | None, SettingsOption(help="float32, bfloat16 or float16.")] = None,
    engine: Annotated[str | None, SettingsOption(help="vllm, vllm-server or hf.")] = None,
    fix: Annotated[OptionList, CureOption(help="Remedy by name; repeatable.")] = None,
    fault: Annotated[
        OptionList, CureOption(help="Fault to plant, NAME or NAME:SEVERITY; repeatable.")
    ] = None,
    set_: Annotated[
        OptionList, SettingsOption("--set", help="Any setting: SECTION.NAME=VALUE; repeatable.")
    ] = None,
    out: Annotated[
        Path | None, RunOption(help="Run folder; by default a new one in runs/.")
    ] = None,
    resume: Annotated[
        bool, RunOption("--resume", help="Go on from the last checkpoint in --out.")
    ] = False,
    compare_: Annotated[
        str | None, CompareOption("--compare", help="Arms to run side by side: broken,fixed.")
    ] = None,
    seeds: Annotated[
        int | None, CompareOption(min=1, help="Of each arm of --compare; 3 unless given.")
    ] = None,
    workers: Annotated[
        int | None, CompareOption(min=1, help="Runs of --compare at once; 1 unless given.")
    ] = None,
    tensorboard: Annotated[
        bool, RunOption("--tensorboard", help="Metrics also as TensorBoard's event files.")
    ] = False,
    plan: Annotated[
        bool, PlanOption("--plan", help="Print the expected memory, and run nothing.")
    ] = False,
    ranks: Annotated[
        int | None, PlanOption(min=1, help="Of --plan: the trainer's, a device each.")
    ] = None,
    hosts: Annotated[int | None, PlanOption(min=1, help="Of --plan: that share them.")] = None,
    device_gib: Annotated[
        float | None, PlanOption(min=0, help="Of --plan: what one device has.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train with GRPO on a task, with faults planted and fixes applied by name."""
    overrides: dict[str, Any] = {"task": task}
    given = {"model": model, "steps": steps, "seed": seed, "dtype": dtype, "rollout.engine": engine}
    overrides |= {name: value for name, value in given.items() if value is not None}
    for name, values in (("fixes", fix), ("faults", fault)):
        if values:
            overrides[name] = tuple(values)
    if tensorboard:
        overrides["tensorboard"] = True
    overrides |= dict(parse_setting(text) for text in set_ or ())

    from mismatch_lab.trainer.config import read_config

    asked, command = read_config(config, overrides), ("mismatch-lab", *sys.argv[1:])
    if plan:
        from mismatch_lab.trainer.planner.plan import Machine
        from mismatch_lab.trainer.planner.show import show_plan

        show_plan(asked, Machine(ranks or 1, hosts or 1), device_gib)
        return
    if ranks is not None or hosts is not None or device_gib is not None:
        raise InputError("--ranks, --hosts and --device-gib are for --plan.", "Add --plan.")
    if compare_ is not None:
        from mismatch_lab.trainer.comparison.compare import compare

        compare(asked, compare_, seeds or SEEDS, out, workers or 1, command)
        return
    if seeds is not None or workers is not None:
        raise InputError("--seeds and --workers are for several arms.", "Add --compare ARM,ARM.")
    from mismatch_lab.trainer.run import run_training

    run_training(asked, out, resume, command)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from mismatch_lab.trainer.ranks import end

        end()


def parse_setting(text: str) -> tuple[str, Any]:
    """`NAME=VALUE`; the value is JSON, else text.

    Raises:
        InputError: there is no `=`.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InputError(f"--set {text!r} is not of the form SECTION.NAME=VALUE.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
