"""What the terminal shows: progress while a run works, then a summary that fits one screen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from mismatch_lab.cli.cause_lines import print_causes
from mismatch_lab.cli.finding_lines import print_odd_tokens, print_record, print_runs
from mismatch_lab.findings.drawn import disproved, what_would_be_noticed
from mismatch_lab.findings.edges import EDGE_ABOUT
from mismatch_lab.report.gaps import not_compared
from mismatch_lab.report.text import visible
from mismatch_lab.schema import EstimateRecord, Findings
from mismatch_lab.schema.events import Captured, Event, OnEvent, Progressed, StageBegan, Started

STATUS_STYLE = {
    "match": "bold green",
    "numerics": "bold cyan",
    "mismatch": "bold red",
    "underpowered": "bold yellow",
    "error": "bold red",
}
SHOWN = (
    "decode_train",
    "decode_prefill",
    "decode_eager",
    "prefill_eager",
    "prefill_train",
    "decode_second",
    "prefill_second",
    "second_train",
    "train_train",
    "infer_infer",
    "infer_ref",
    "train_ref",
    "second_ref",
)

WIDE = 160
"""Columns of a terminal from which on the table also says what an edge compares: in fewer, numbers
would be cut short for it."""


@contextmanager
def progress(console: Console) -> Iterator[OnEvent]:
    """A line that says what is being waited for; finished stages stay above it."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        current = bars.add_task("planning", total=None)

        def handle(event: Event) -> None:
            match event:
                case StageBegan(text):
                    bars.reset(current, total=None, description=escape(text))
                case Progressed(done, total):
                    bars.update(current, completed=done, total=total)
                case Started(side, wall_s):
                    console.print(f"  started {side} in {wall_s:.1f} s", style="dim")
                case Captured(id, _, wall_s):
                    console.print(f"  captured {id} in {wall_s:.1f} s", style="dim")

        yield handle


REASONS_SHOWN = 5
"""Beside the first, which the headline says."""

BY_HAND_SHOWN = 3
"""Experiments left to the user that the terminal shows; the report has all."""


def summary(console: Console, findings: Findings, report: Path | None) -> None:
    """The answer, the edges, where it starts, and what to do next."""
    verdict = findings.verdict
    style = STATUS_STYLE[verdict.status]
    headline = escape(visible(verdict.headline))
    console.print(f"\n[{style}]{verdict.status.upper()}[/]  {headline}", highlight=False)
    console.print(_edge_table(findings, console.width))
    if findings.over_runs is not None:
        print_runs(console, findings.over_runs)
    if findings.record is not None:
        print_record(console, findings.record)
    print_odd_tokens(console, findings)
    alone = findings.three_way.why if findings.three_way is not None else ""
    if alone:
        console.print(f"  [bold]{escape(visible(alone))}[/]", highlight=False)
    for reason in [r for r in verdict.reasons[1:] if r != alone][:REASONS_SHOWN]:
        console.print(f"  - {escape(visible(reason))}", highlight=False)
    left_out = [name for name, _why in not_compared(findings.localisation)]
    if left_out:
        others = f" and {len(left_out) - 1} more kinds of module" if len(left_out) > 1 else ""
        console.print(
            f"  not compared: {left_out[0]}{others}; the report says why", highlight=False
        )
    if findings.drawn is not None and not disproved(findings.drawn):
        console.print(f"  - {what_would_be_noticed(findings.drawn)}", highlight=False)
    print_causes(console, verdict)
    for one in verdict.by_hand[:BY_HAND_SHOWN]:
        outcome = f"gone: {one.if_gone}; stays: {one.if_it_stays}"
        console.print(
            f"  try:  the server with {escape(one.server_with)} ({outcome})", highlight=False
        )
    if report is not None:
        console.print(f"report: {report}", highlight=False, soft_wrap=True)
    following = escape(visible(verdict.next_command))
    console.print(f"next:   {following}", highlight=False, soft_wrap=True)


def _edge_table(findings: Findings, width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, justify in (
        ("edge", "left"),
        ("mean |delta|", "right"),
        ("95 % interval", "left"),
        ("p99", "right"),
        ("KL k3", "right"),
        ("n", "right"),
    ):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    if width >= WIDE:
        table.add_column("compares", style="dim", overflow="ellipsis", no_wrap=True)
    for name in SHOWN:
        measures = findings.edges.get(name)
        if measures is None:
            continue
        delta = measures["abs_delta_mean"]
        cells = [
            name,
            number(delta.value),
            interval(delta),
            number(measures["abs_delta_p99"].value),
            number(measures["kl_infer_train_k3"].value),
            str(delta.n),
            EDGE_ABOUT[name],
        ]
        table.add_row(*cells[: len(table.columns)])
    return table


def number(value: float) -> str:
    """Three figures, or that nothing was measured."""
    return "not measured" if math.isnan(value) else f"{value:.3g}"


def interval(estimate: EstimateRecord) -> str:
    """`[low, high]`, empty where there is none."""
    low, high = estimate.ci95
    return "" if math.isnan(low) or math.isnan(high) else f"[{low:.2g}, {high:.2g}]"
