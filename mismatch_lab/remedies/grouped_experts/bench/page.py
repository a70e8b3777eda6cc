"""The measurements, and what follows from the formulas, as a page of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mismatch_lab.remedies.grouped_experts.bench.accuracy import Accuracy
from mismatch_lab.remedies.grouped_experts.bench.measure import Row
from mismatch_lab.remedies.grouped_experts.memory import (
    GIB,
    GPT_OSS_20B,
    GPT_OSS_120B,
    KEPT,
    kept_bytes,
    largest_bytes,
    repeated_bytes,
)

PUBLISHED_TOKENS = 24576
"""Prompt of 8k and response of 16k."""


def page(machine: Mapping[str, str], accuracy: Sequence[Accuracy], rows: Sequence[Row]) -> str:
    """Markdown."""
    about = "; ".join(f"{name} {value}" for name, value in machine.items())
    parts = ["# Experts of a GPT-OSS layer", about, *_planned(), *_accuracy(accuracy)]
    for tokens in sorted({row.tokens for row in rows}):
        parts += _measured(tokens, [row for row in rows if row.tokens == tokens])
    return "\n\n".join(parts) + "\n"


def _planned() -> list[str]:
    shape, tokens = GPT_OSS_20B, PUBLISHED_TOKENS
    header = ["way", "largest tensor GiB", "kept, a layer GiB", f"kept, {shape.layers} layers GiB"]
    body = []
    for way in KEPT:
        kept = kept_bytes(way, shape, tokens) / GIB
        largest = largest_bytes(way, shape, tokens) / GIB
        body.append([way, f"{largest:.2f}", f"{kept:.3f}", f"{kept * shape.layers:.2f}"])
    repeats = [f"{repeated_bytes(s, tokens) / GIB:.2f} GiB" for s in (shape, GPT_OSS_120B)]
    said = (
        f"By the formulas, for the 20b in bf16 at {tokens} tokens. Kept is from forward to backward"
        " beyond inputs and parameters, without checkpointing. `repeat` is eval mode of"
        f" transformers 4.55 to 4.57: its `hidden_states.repeat` takes {repeats[0]} at this length"
        f" in the 20b and {repeats[1]} in the 120b. The published 180.00 GiB are exactly 2^20"
        " tokens in one call in the 20b, or 2^18 in the 120b: a batch, not one sequence of 24k."
    )
    return ["## What the 20b needs", said, _table(header, body)]


def _accuracy(rows: Sequence[Accuracy]) -> list[str]:
    names = next((list(row.errors) for row in rows if row.errors), [])
    header = ["way", "tokens", *names, ""]
    body = [
        [
            row.way,
            str(row.tokens),
            *([f"{row.errors[n]:.1e}" for n in names] if row.errors else [""] * len(names)),
            row.note,
        ]
        for row in rows
    ]
    said = "Norm of the difference over the norm, output and gradients."
    return ["## Relative error against eager in float64", said, _table(header, body)]


def _measured(tokens: int, rows: Sequence[Row]) -> list[str]:
    header = ["way", "mode", "pass", "ms", "peak MiB", "kept MiB", "kept by formula MiB", ""]
    body = [
        [
            row.way,
            row.mode,
            "forward + backward" if row.backward else "forward, no gradient",
            *map(_number, (row.milliseconds, row.peak_mib, row.kept_mib, row.formula_mib)),
            row.note,
        ]
        for row in rows
    ]
    said = (
        "One layer, router and experts, under FSDP2 on one rank. Peak is beyond the sharded layer"
        " and its input: it has the gathered weights in it, and after a backward pass their"
        " gradients."
    )
    return [f"## {tokens} tokens", said, _table(header, body)]


def _number(value: float) -> str:
    return "" if value != value else f"{value:.2f}"


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *body]
    cells = [[cell.replace("|", "/").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
