"""What the terminal shows of a card: progress, the list of cases, and the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from mismatch_lab.report.numbers import percent, seconds
from mismatch_lab.report.text import shorten
from mismatch_lab.schema.events import Event, StageBegan
from mismatch_lab.scorecard.accuracy import is_miss, is_miss_of_place
from mismatch_lab.scorecard.page import answer_words, planted_words
from mismatch_lab.scorecard.records import BlackBoxCard, Case, CaseResult, Row, Scorecard, Share
from mismatch_lab.scorecard.store import PAGE_FILE

WIDE = 130
"""Columns of a terminal from which on the tables show intervals."""


class Board:
    """A bar for the card with the stages of the cases under way; a line for each case done."""

    def __init__(self, console: Console, bars: Progress, total: int) -> None:
        self._console = console
        self._bars = bars
        self._task = bars.add_task("planning", total=total)
        self._stages: dict[str, str] = {}

    def on_event(self, case: Case, event: Event) -> None:
        """A case is at another stage."""
        if isinstance(event, StageBegan):
            self._stages[case.id] = f"{case.id}: {event.text}"
        self._show(0)

    def done(self, result: CaseResult, stored: bool = False) -> None:
        """A case has its result."""
        self._stages.pop(result.case.id, None)
        if not stored:
            self._console.print(case_line(result), highlight=False, soft_wrap=True)
        self._show(1)

    def _show(self, advance: int) -> None:
        words = escape("\n".join(self._stages.values())) or "planning"
        self._bars.update(self._task, advance=advance, description=words, refresh=True)


@contextmanager
def progress(console: Console, total: int) -> Iterator[Board]:
    """The board of a card, without a thread: cases may be run in forks of this process."""
    columns = (
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bars:
        yield Board(console, bars, total)


def case_line(result: CaseResult) -> str:
    """`right  sinks-dropped.plain.mini-gpt-oss.fp32  attention-sinks-dropped …  41 s`.

    `place`: all right but the location; `none`: no answer.
    """
    if result.judgement is None:
        word = "[yellow]none [/]"
        said = ("cannot be planted: " if result.not_applicable else "") + short(result.problem)
    else:
        word = "[red]wrong[/]" if is_miss(result) else "[green]right[/]"
        if is_miss(result) and is_miss_of_place(result):
            word = "[yellow]place[/]"
        said = answer_words(result)
    return f"{word} {result.case.id}  [dim]{escape(said)}  {seconds(result.wall_s)}[/]"


def short(problem: str) -> str:
    """A problem in one line; the whole of it is in the case's file."""
    return shorten(" ".join(problem.split()), 200)


def print_cases(console: Console, cases: list[Case]) -> None:
    """One line for each case."""
    for case in cases:
        console.print(case.id, highlight=False, soft_wrap=True)
    kinds = {kind: sum(c.kind == kind for c in cases) for kind in ("single", "double", "control")}
    words = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    console.print(f"{len(cases)} cases: {words}", highlight=False)


def print_card(console: Console, card: Scorecard, out: Path) -> None:
    """The tables, the aims, and the misses."""
    wide = console.width >= WIDE
    console.print(_table("severity", card.by_severity, wide))
    console.print(_table("family", card.by_family, wide))
    _print_counts(console, card.doubles, card.controls)
    _print_black_box(console, "From captures alone, as compare has them:", card.black_box)
    words = "From captures and the checkpoint, as diagnose --captures has them:"
    _print_black_box(console, words, card.recorded)
    _print_misses(console, card.recorded.misses, card.recorded.unanswered)
    for goal in card.goals:
        word = {True: "[green]met   [/]", False: "[red]missed[/]", None: "[yellow]?     [/]"}
        console.print(
            f"{word[goal.met]} {escape(goal.text)}: {goal.measured}",
            highlight=False,
            soft_wrap=True,
        )
    _print_misses(console, card.misses, card.not_run)
    if len(card.codes) > 1:
        console.print("These results were made by different versions of the code; ", end="")
        console.print("--overwrite runs them anew.", highlight=False)
    console.print(f"card: {out / PAGE_FILE}", highlight=False, soft_wrap=True)


def _print_black_box(console: Console, title: str, box: BlackBoxCard) -> None:
    if not box.by_severity[-1].cases + box.doubles.cases + box.controls.cases:
        return
    console.print(title, highlight=False)
    console.print(_table("severity", box.by_severity, console.width >= WIDE))
    _print_counts(console, box.doubles, box.controls)


def _print_misses(console: Console, misses: list[CaseResult], none: list[CaseResult]) -> None:
    for miss in misses:
        said = escape(f"{planted_words(miss)} on {miss.case.model}: {answer_words(miss)}")
        console.print(f"  miss: {said}", highlight=False, soft_wrap=True)
    for result in none:
        console.print(f"  none: {result.case.id}: {escape(short(result.problem))}", highlight=False)


def _print_counts(console: Console, doubles: Row, controls: Row) -> None:
    both, alarms = doubles.shares["both"], controls.shares["false_alarm"]
    console.print(f"double faults, both named: {share_text(both)}", highlight=False)
    console.print(f"healthy controls, false alarms: {alarms.right}/{alarms.n}", highlight=False)


def share_text(share: Share, with_interval: bool = True) -> str:
    """`95.0 % 19/20 [76, 99]`."""
    if not share.n:
        return "–"
    if not with_interval:
        return f"{share.value:.0%} {share.right}/{share.n}"
    low, high = (round(100 * end) for end in share.ci95)
    return f"{percent(share.value)} {share.right}/{share.n} [{low}, {high}]"


def _table(first: str, rows: list[Row], wide: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    questions = list(rows[0].shares)
    for name in (first, "cases", *questions):
        table.add_column(name, justify="left" if name == first else "right", no_wrap=True)
    for row in rows:
        shares = [share_text(row.shares[question], wide) for question in questions]
        table.add_row(row.name, str(row.cases), *shares)
    return table
