"""`explain CAUSE`: what is known of one cause, as a page for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mismatch_lab.attribution.causes import FRAMEWORKS, CauseEntry, load_cause, tells_apart
from mismatch_lab.attribution.experiments import EXPERIMENTS
from mismatch_lab.remedies import fixes_of, load_remedy

INDENT = (0, 0, 0, 2)
"""Padding of a section's body: columns on the left."""
SIDES = {"train": "trainer", "infer": "engine"}
NAME_WIDTH = 9
"""Of the column with the frameworks' names."""


def print_cause(console: Console, id: str) -> None:
    """Mechanism, signature, confirmation, neighbours, remedies and sources.

    Raises:
        InputError: there is no such cause.
    """
    cause = load_cause(id)
    console.print(Text.assemble((cause.id, "bold"), f"  ({cause.family})"))
    console.print(Text(f"{cause.title}."))
    _section(console, "How it happens", cause.mechanism)
    _section(console, "How it shows", cause.signature)
    _section(console, "How it is confirmed", cause.confirmation)
    _experiments(console, cause.id)
    _neighbours(console, cause)
    _section(console, "Remedy", cause.remedy)
    _fixes(console, cause.id)
    _remedies(console, cause)
    _heading(console, "Seen in")
    for source in cause.sources:
        console.print(f"  {source}", soft_wrap=True)
    if cause.fault is not None:
        _section(console, "Proven by", _planted(cause.fault))


def _planted(id: str) -> str:
    from mismatch_lab.faults import load_fault  # many modules: not for printing a list

    fault = load_fault(id)
    return f"planted fault {id} ({fault.side}): {fault.about}"


def _heading(console: Console, title: str) -> None:
    console.print()
    console.print(Text(title, style="bold"))


def _section(console: Console, title: str, body: str) -> None:
    _heading(console, title)
    console.print(Padding(Text(body), INDENT))


def _experiments(console: Console, cause: str) -> None:
    """What `diagnose` turns on the side itself."""
    curing = [experiment for experiment in EXPERIMENTS if cause in experiment.cures]
    if not curing:
        return
    _heading(console, "Its effect goes away with")
    for experiment in curing:
        surely = "" if cause in experiment.clears else ", where that is what causes it"
        console.print(Text(f"  {experiment.changes} ({SIDES[experiment.side]}){surely}"))


def _neighbours(console: Console, cause: CauseEntry) -> None:
    if not cause.neighbours:
        return
    _heading(console, "Easily taken for")
    for neighbour in cause.neighbours:
        console.print(Text(f"  {neighbour}", style="italic"))
        console.print(Padding(Text(tells_apart(cause.id, neighbour)), (0, 0, 0, 4)))


def _fixes(console: Console, cause: str) -> None:
    for name in fixes_of(cause):
        fix = load_remedy(name)
        does = "removes it" if cause in fix.removes else "makes it harmless, or less harmful"
        console.print(Padding(Text(f"mismatch-lab train --fix {name} {does}: {fix.about}"), INDENT))


def _remedies(console: Console, cause: CauseEntry) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold", min_width=NAME_WIDTH)
    table.add_column(overflow="fold")
    for framework in FRAMEWORKS:
        table.add_row(framework, Text(cause.remedies[framework]))
    console.print(Padding(table, INDENT))
