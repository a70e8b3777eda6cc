"""The measurements as a page of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mismatch_lab.remedies.attention_sinks.bench.accuracy import LIMIT, NAMES, Accuracy
from mismatch_lab.remedies.attention_sinks.bench.speed import Speed


def page(machine: Mapping[str, str], accuracy: Sequence[Accuracy], speed: Sequence[Speed]) -> str:
    """Markdown."""
    about = "; ".join(f"{name} {value}" for name, value in machine.items())
    parts = ["# Attention sinks through a flash kernel", about, *_accuracy(accuracy)]
    for window in dict.fromkeys(row.window for row in speed):
        parts += _speed(window, [row for row in speed if row.window == window])
    return "\n\n".join(parts) + "\n"


def _accuracy(rows: Sequence[Accuracy]) -> list[str]:
    header = ["way", "documents", "window", *NAMES, f"within {LIMIT}"]
    body = [
        [
            row.way if row.has_sinks else f"{row.way} (has none, must fail)",
            "+".join(map(str, row.lengths)),
            str(row.window or "none"),
            *([f"{row.errors[n]:.1e}" for n in NAMES] if row.errors else [""] * len(NAMES)),
            row.note or ("yes" if row.right == row.has_sinks else "no"),
        ]
        for row in rows
    ]
    return ["## Relative error against float64", _table(header, body)]


def _speed(window: int | None, rows: Sequence[Speed]) -> list[str]:
    header = ["tokens", "way", "forward ms", "forward + backward ms", "speed", "memory MiB", ""]
    body = [[str(row.tokens), row.way, *_numbers(row), row.note] for row in rows]
    seen = "all keys before a query" if window is None else f"a window of {window}"
    explained = "Speed is that of the kernel without sinks = 1; memory is beyond the inputs."
    return [f"## Time and memory, {seen}", explained, _table(header, body)]


def _numbers(row: Speed) -> list[str]:
    if row.note:
        return [""] * 4
    times = [f"{row.forward_ms:.3f}", f"{row.total_ms:.3f}", f"{row.relative:.3f}"]
    return [*times, "" if row.peak_mib != row.peak_mib else f"{row.peak_mib:.0f}"]


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *body]
    cells = [[cell.replace("|", "/").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
