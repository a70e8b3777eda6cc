"""The plan of a run on the terminal, or in a pipe."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mismatch_lab.report.numbers import seconds
from mismatch_lab.run.dry_run import DryRun, PlannedTrial

HEADERS = {"train": "trainer", "infer": "re-scoring", "decode": "sampling"}
"""Suspect -> head of its column."""


PIPED_WIDTH = 200
"""Columns where nobody looks: one line per row, so that grep finds whole ones."""


def print_plan(console: Console, plan: DryRun) -> None:
    """Captures, what would be tried on a mismatch, and experiments."""
    if not console.is_terminal and console.width < PIPED_WIDTH:
        console.width = PIPED_WIDTH
    _say(console, f"plan of {plan.run}: {plan.prompts} prompts; nothing is started or written.")
    _head(console, "captures, in this order")
    console.print(_captures(plan))
    if plan.repeats_note:
        _say(console, plan.repeats_note)
    _head(console, f"on a mismatch, for at most {seconds(plan.budget_s)}: what each suspect may be")
    _say(console, f"{plan.cost_of_trial}; n+: n values, then others between the best of them")
    console.print(_trials(plan))
    _head(console, "then on the side itself, what separates or confirms the causes left")
    _say(console, plan.cost_of_experiment)
    console.print(_experiments(plan))
    _say(console, f"\n{plan.note}")


def _say(console: Console, text: str) -> None:
    console.print(Text(text))


def _head(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}", style="bold"))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        right = column in HEADERS.values()
        table.add_column(column, overflow="fold", justify="right" if right else "left")
    table.columns[0].no_wrap = True
    return table


def _captures(plan: DryRun) -> Table:
    table = _table("capture", "side", "engine", "dtype", "what it does")
    for capture in plan.captures:
        cells = (capture.id, capture.side, capture.engine, capture.dtype, capture.does)
        table.add_row(*map(Text, cells))
    return table


def _trials(plan: DryRun) -> Table:
    """One row for each supposition, with the number of values tried on each suspect."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for suspect in plan.suspects:
        for trial in suspect.trials:
            cells.setdefault((trial.cause, trial.supposed), {})[suspect.suspect] = _values(trial)
    table = _table("cause", "what is supposed", *HEADERS.values())
    for (cause, supposed), tried in cells.items():
        table.add_row(Text(cause), Text(supposed), *(tried.get(name, "") for name in HEADERS))
    return table


def _values(trial: PlannedTrial) -> str:
    return f"{trial.values}+" if trial.refined else str(trial.values)


def _experiments(plan: DryRun) -> Table:
    table = _table("side", "with", "considered as", "may take away")
    for one in plan.experiments:
        cells = (one.side, one.does, one.why, ", ".join(one.takes_away))
        table.add_row(*map(Text, cells))
    return table
