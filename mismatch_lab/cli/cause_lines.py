"""Named causes on the terminal, as a chain: seen, ruled out, confirmed by, do this."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mismatch_lab.attribution.causes import CAUSES
from mismatch_lab.report.numbers import number
from mismatch_lab.report.text import DONE_TO, tied, visible
from mismatch_lab.schema import Cause, RuledOut, Verdict

SHOWN = 3
"""Causes printed; the report has them all."""
NAMED = 4
"""Causes ruled out that are named; the others are counted."""
LABEL_WIDTH = 9


def print_causes(console: Console, verdict: Verdict) -> None:
    """Every cause with its evidence and what to do; says where several explain it equally well."""
    for at, cause in enumerate(verdict.causes[:SHOWN]):
        head = Text.assemble("cause:  ", (visible(cause.id), "bold"), f"  {_placed(cause)}")
        console.print(head)
        rows = _chain(cause, verdict.ruled_out if at == 0 else [], verdict.status == "mismatch")
        console.print(Padding(_table(rows), (0, 0, 0, 2)))
    left = len(verdict.causes) - SHOWN
    if left > 0:
        console.print(Text(f"        and {left} more; the report has them"))
    equal = tied(verdict.causes)
    if equal:
        console.print(Text(_undecided(equal), style="yellow"))


def _placed(cause: Cause) -> str:
    where = f" at {visible(cause.location)}" if cause.location else ""
    return f"({cause.side}{where}, confidence {cause.confidence:.2f})"


def _chain(cause: Cause, ruled_out: list[RuledOut], needs_proof: bool) -> list[tuple[str, str]]:
    rows = [("why", cause.why)] if cause.why else []
    for seen in cause.evidence[:1]:
        expected = f"; expected {seen.expected}" if seen.expected else ""
        rows.append(("seen", f"{seen.observation}: {number(seen.value)}{expected}"))
    if ruled_out:
        names = ", ".join(other.id for other in ruled_out[:NAMED])
        left = len(ruled_out) - NAMED
        rows.append(("ruled out", names + (f" and {left} more" if left > 0 else "")))
    for proof in cause.confirmed_by:
        change = f"{number(proof.before)} -> {number(proof.after)}"
        rows.append(("confirmed", f"{proof.experiment}: {change}{DONE_TO[proof.by]}"))
    if needs_proof and not cause.confirmed_by:
        rows.append(("confirmed", "not yet"))
    if cause.remedy is not None:
        rows.append(("do", cause.remedy.how))
        if cause.remedy.id is not None:
            rows.append(("try it", f"mismatch-lab train --fix {cause.remedy.id}"))
    if cause.id in CAUSES:
        rows.append(("more", f"mismatch-lab explain {cause.id}"))
    return rows


def _table(rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, min_width=LABEL_WIDTH)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(label, Text(visible(text)))
    return table


def _undecided(causes: list[Cause]) -> str:
    names = " and ".join(visible(cause.id) for cause in causes)
    said = f"undecided: {names} explain what was seen equally well."
    decides = next((cause.decides for cause in causes if cause.decides), "")
    return f"{said} To decide: {visible(decides)}" if decides else said
