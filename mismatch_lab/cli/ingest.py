"""`ingest`: its options, and what it prints."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mismatch_lab.cli.help import DebugOption, JsonOption

if TYPE_CHECKING:
    from mismatch_lab.ingest.report import Report

SampledOption = partial(typer.Option, rich_help_panel="How the engine sampled")
RowsOption = partial(typer.Option, rich_help_panel="Which rows")

STEPS_SHOWN = 8


def ingest(
    format: Annotated[str, typer.Argument(help="Of the dump; see `list formats`.")],
    path: Annotated[Path, typer.Argument(help="Folder that the run wrote to, or one file.")],
    out: Annotated[Path, typer.Option(help="Folder to write: a record, or one a step.")],
    temperature: Annotated[float | None, SampledOption(help="Of the sampling.")] = None,
    top_p: Annotated[float | None, SampledOption(help="1 is all of the vocabulary.")] = None,
    top_k: Annotated[int | None, SampledOption(help="0 is all of it.")] = None,
    min_p: Annotated[float | None, SampledOption(help="0 is all of it.")] = None,
    logprobs: Annotated[
        Literal["raw", "processed"] | None,
        SampledOption(help="The engine's: from before the temperature, or after it."),
    ] = None,
    mask: Annotated[
        Literal["generated", "loss"],
        RowsOption(help="Tokens to compare: all that the engine drew, or what the loss counts."),
    ] = "generated",
    steps: Annotated[str | None, RowsOption(help="3:7 is 3 to 6; or 3,5,9.")] = None,
    step: Annotated[
        int | None, RowsOption(min=0, help="Of a file whose name does not say it.")
    ] = None,
    sample: Annotated[int | None, RowsOption(min=1, help="Rows a step, drawn evenly.")] = None,
    seed: Annotated[int, RowsOption(min=0, help="Of --sample.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what an earlier ingest wrote.")
    ] = False,
    json_output: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make captures of another framework's dump; `diagnose --captures` reads them."""
    from rich.console import Console

    from mismatch_lab.cli.console import progress
    from mismatch_lab.ingest.run import IngestRequest
    from mismatch_lab.ingest.run import ingest as run

    given = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "logprobs": logprobs,
    }
    flags = {name: value for name, value in given.items() if value is not None}
    request = IngestRequest(format, path, out, flags, mask, steps, step, sample, seed, overwrite)
    with progress(Console(stderr=True)) as on_event:
        report = run(request, on_event)
    print(report.as_json()) if json_output else _print(report, out)


def _print(report: Report, out: Path) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False)

    def line(text: str, style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=True)

    for one in report.steps[:STEPS_SHOWN]:
        of = "" if one.rows == one.of_rows else f" of {one.of_rows}"
        name = "" if one.step is None else f"step {one.step}: "
        line(f"{name}{one.rows}{of} rows, {one.sampled} sampled of {one.tokens} tokens")
    if len(report.steps) > STEPS_SHOWN:
        line(f"and {len(report.steps) - STEPS_SHOWN} steps more")
    line(f"compared are {report.mask} tokens; the dump has {report.masks}")
    for text, count in report.counts.items():
        if count:
            line(f"  - {text}: {count}")
    if report.is_copy:
        line("Both sides are equal to the last bit: a copy, not two measurements.", "bold red")
    for text in report.cannot_know:
        line(f"  not in the dump: {text}", "dim")
    size, speed = report.bytes / 1e6, report.mb_per_s
    line(f"captures: {out} ({size:.1f} MB read in {report.wall_s:.1f} s, {speed:.0f} MB/s)")
    folder = out / report.steps[0].folder
    following = ["mismatch-lab", "diagnose", "CHECKPOINT", "--captures", str(folder)]
    line(f"next:   {shlex.join(following)}")
