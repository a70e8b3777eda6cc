"""What the terminal shows of a comparison: steps as they are made, and the final values."""

from __future__ import annotations

import threading
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mismatch_lab.report.text import visible
from mismatch_lab.trainer.comparison.duration import Remaining
from mismatch_lab.trainer.comparison.page import PAGE_FILE
from mismatch_lab.trainer.comparison.records import Comparison
from mismatch_lab.trainer.comparison.runs import Run
from mismatch_lab.trainer.comparison.shown import HELD_OUT, MEAN_ABS_DELTA, SHOWN
from mismatch_lab.trainer.comparison.summary import against, cell

WIDE = 130
"""Columns of a terminal in which the table of a comparison has room."""

COLUMNS = (HELD_OUT, "reward", "grad_norm", MEAN_ABS_DELTA)


class Lines:
    """Passes on the steps of runs; everything else they say is in their logs."""

    def __init__(self, console: Console, remaining: Remaining) -> None:
        self._console, self._remaining = console, remaining
        self._one_at_a_time = threading.Lock()

    def __call__(self, run: Run, line: str) -> None:
        if line.startswith("step "):
            with self._one_at_a_time:
                text = f"{run.name}  {visible(line)}"
                for one in (text, self._remaining.after(run)):
                    if one:
                        self._console.print(one, markup=False, highlight=False, soft_wrap=True)


def _cells(found: Comparison, arm: str) -> list[str]:
    """Of one arm: its values, a line break before each interval."""
    cells = [cell(found.finals.get(name, {}).get(arm), "\n") for name in COLUMNS]
    difference = found.differences.get(HELD_OUT, {}).get(arm)
    last = f"{against(difference)}\n{cell(difference, sign=True)}" if difference else ""
    return [*cells, last]


def _print_table(
    console: Console, title: str, heads: list[str], rows: dict[str, list[str]]
) -> None:
    table = Table(title=title)
    table.add_column("arm")
    for head in heads:
        table.add_column(head, justify="right")
    for arm, cells in rows.items():
        table.add_row(arm, *cells)
    console.print(table)


def _print_list(console: Console, title: str, heads: list[str], rows: dict[str, list[str]]) -> None:
    """For a terminal in which the table's intervals would be broken into pieces."""
    console.print(title, markup=False)
    for arm, cells in rows.items():
        table = Table(title=arm, title_justify="left", box=None, show_header=False, pad_edge=False)
        for head, one in zip(heads, cells, strict=True):
            if one:
                table.add_row(head, one.replace("\n", " "))
        console.print(table)


def print_comparison(console: Console, found: Comparison, out: Path) -> None:
    """Final values of each arm with 95 % intervals over seeds, and what did not finish."""
    title = f"Final values over seeds {', '.join(map(str, found.seeds))}"
    heads = [*(SHOWN[name].title for name in COLUMNS), f"held out against {found.baseline}"]
    rows = {arm.name: _cells(found, arm.name) for arm in found.arms}
    if console.width < WIDE:
        _print_list(console, title, heads, rows)
    else:
        _print_table(console, title, heads, rows)
    for run in found.runs:
        if run.state != "finished":
            reason = escape(visible(run.problem.rpartition("\n")[2]))
            console.print(
                f"[bold]not finished[/bold]: {run.arm}, seed {run.seed}, "
                f"{run.steps_made} steps made. {reason}",
                highlight=False,
                soft_wrap=True,
            )
    console.print(f"Report: {escape(str(out / PAGE_FILE))}", highlight=False, soft_wrap=True)
