"""scorecard.html: one file that asks for nothing else."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from mismatch_lab.report.single_file import render_page, style, write_whole
from mismatch_lab.resources import reports_dir
from mismatch_lab.scorecard.accuracy import CAPTURES_QUESTIONS, HEALTHY, QUESTIONS
from mismatch_lab.scorecard.judge import FLOOR
from mismatch_lab.scorecard.records import CaseResult, Scorecard
from mismatch_lab.scorecard.store import PAGE_FILE

TEMPLATE = "scorecard.html.j2"


def write_page(card: Scorecard, out: Path) -> Path:
    """Render the card into `out/scorecard.html`, whole or not at all."""
    return write_whole(out / PAGE_FILE, render_card(card, reports_dir()))


def render_card(card: Scorecard, templates: Path) -> str:
    """The page as text."""
    shown = {
        "card": card,
        "command": shlex.join(card.provenance.command),
        "questions": QUESTIONS,
        "captures_questions": CAPTURES_QUESTIONS,
        "matrix": matrix(card.confusion),
        "cases": len(card.misses),
        "card_css": style(templates, "scorecard.css"),
    }
    filters = {"planted": planted_words, "answer": answer_words}
    return render_page(TEMPLATE, templates, shown, filters)


def matrix(confusion: dict[str, dict[str, int]]) -> dict[str, Any]:
    """The confusion as a square where it can be: columns in the order of the rows, others last."""
    planted = sorted(confusion, key=lambda name: (name == HEALTHY, name))
    named = {name for line in confusion.values() for name in line}
    columns = [name for name in planted if name in named]
    columns += sorted(named - set(columns))
    rows = []
    for name in planted:
        line = confusion[name]
        total = sum(line.values())
        right = {name} if name != HEALTHY else {FLOOR, "match", "numerics"}
        cells = [
            {"count": line.get(column, 0), "share": line.get(column, 0) / total,
             "right": column in right, "column": column}
            for column in columns
        ]  # fmt: skip
        rows.append({"name": name, "total": total, "cells": cells})
    return {"columns": columns, "rows": rows}


def planted_words(result: CaseResult) -> str:
    """`sinks-dropped (plain, train)`, `a + b`, or the control's name."""
    case = result.case
    if case.control is not None:
        return f"healthy: {case.control}"
    return " + ".join(f"{t.fault} ({t.severity}, {'/'.join(t.sides)})" for t in case.truths)


def answer_words(result: CaseResult) -> str:
    """What the tool said, with its confidence."""
    if not result.causes:
        return f"{result.status}, no cause"
    return "; ".join(
        f"{c.id} ({c.side}, {c.location or 'no place'}, {c.confidence:.2f})" for c in result.causes
    )
