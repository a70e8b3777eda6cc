"""What the terminal shows of a comparison: steps as they are made, and the final values."""

from __future__ import annotations

import threading
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mismatch_lab.reporting.text import visible
from mismatch_lab.trainer.comparison.page import PAGE_FILE
from mismatch_lab.trainer.comparison.records import Comparison
from mismatch_lab.trainer.comparison.runs import Run
from mismatch_lab.trainer.comparison.shown import HELD_OUT, MEAN_ABS_DELTA, SHOWN
from mismatch_lab.trainer.comparison.words import against, cell

COLUMNS = (HELD_OUT, "reward", "grad_norm", MEAN_ABS_DELTA)


class Lines:
    """Passes on the steps of runs; everything else they say is in their logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._one_at_a_time = threading.Lock()

    def __call__(self, run: Run, line: str) -> None:
        if line.startswith("step "):
            with self._one_at_a_time:
                text = f"{run.name}  {visible(line)}"
                self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_comparison(console: Console, found: Comparison, out: Path) -> None:
    """Final values of each arm with 95 % intervals over seeds, and what did not finish."""
    table = Table(title=f"Final values over seeds {', '.join(map(str, found.seeds))}")
    table.add_column("arm")
    for name in COLUMNS:
        table.add_column(SHOWN[name].title, justify="right")
    table.add_column(f"held out against {found.baseline}", justify="right")
    for arm in (a.name for a in found.arms):
        cells = [cell(found.finals.get(name, {}).get(arm), "\n") for name in COLUMNS]
        difference = found.differences.get(HELD_OUT, {}).get(arm)
        last = f"{against(difference)}\n{cell(difference, sign=True)}" if difference else ""
        table.add_row(arm, *cells, last)
    console.print(table)
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
