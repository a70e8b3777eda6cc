"""Which rows are shown token by token, both sides beside each other, and what is said of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.attribution.two_captures import Difference, differing_ids
from mismatch_lab.captures.capture import Capture
from mismatch_lab.report.numbers import number, signed
from mismatch_lab.report.run_files import RunFiles
from mismatch_lab.report.text import token_text
from mismatch_lab.report.tokens import Excerpt, TokenShelf

WORST_ROWS = 12
"""With typical ones, some 14 rows of `LONGEST_ROW` tokens: about 2 MB of page at most."""
ROWS_WITH_OTHER_IDS = 8
BEFORE, AFTER = 12, 48
"""Tokens shown before and from the first that differs."""


@dataclass(frozen=True)
class RowView:
    """One row: its tokens, and what is told about it, (name, value) each."""

    excerpt: Excerpt
    largest: str
    """The delta that is furthest from 0, or that a side has none."""
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class Lane:
    """What one side reads at a place where the other reads something else."""

    side: str
    tokens: list[tuple[str, bool]]
    """(text, whether it is not the other's)"""
    left_out: int


@dataclass(frozen=True)
class OtherIds:
    """A prompt or an answer whose ids differ between the sides."""

    row: int
    part: str
    at: int
    lanes: tuple[Lane, Lane]


def row_views(shelf: TokenShelf) -> list[RowView]:
    """The rows with the largest |delta|, then those with the median and the smallest mean."""
    size = np.abs(shelf.delta)
    sizes = [size[slice(*shelf.span(row))] for row in range(shelf.rows.n_rows)]
    told = np.array([_largest(shelf, row) for row in range(len(sizes))])
    means = np.array([_mean(row) for row in sizes])
    having = np.flatnonzero(~np.isnan(told))
    if not len(having):
        return []
    worst = having[np.argsort(-told[having], kind="stable")][:WORST_ROWS]
    rank = {int(row): f"{at + 1} of {len(sizes)}" for at, row in enumerate(worst)}
    measured = np.flatnonzero(np.isfinite(means))
    typical = measured[np.argsort(means[measured], kind="stable")]
    named = {"median": typical[len(typical) // 2], "smallest": typical[0]} if len(typical) else {}
    for word, row in named.items():
        rank.setdefault(int(row), f"{word} mean |Δ|")
    return [_view(shelf, row, title, float(told[row])) for row, title in rank.items()]


def _largest(shelf: TokenShelf, row: int) -> float:
    """The largest |delta| of a row, infinite where one side alone has no log-prob; NaN if none."""
    at = slice(*shelf.span(row))
    sampled = shelf.rows.sampled[at]
    infer, train = (np.isfinite(logp[at][sampled]) for logp in shelf.logp)
    if (infer != train).any():
        return np.inf
    size = np.abs(shelf.delta[at])
    finite = size[np.isfinite(size)]
    return float(finite.max()) if len(finite) else np.nan


def _mean(size: NDArray[np.float64]) -> float:
    finite = size[np.isfinite(size)]
    return float(finite.mean()) if len(finite) else np.nan


def _view(shelf: TokenShelf, row: int, title: str, largest: float) -> RowView:
    excerpt = shelf.whole(row, title)
    at = slice(*shelf.span(row))
    delta, turns = shelf.delta[at], shelf.turns[at]
    facts = [("mean |Δ|", number(excerpt.delta)), ("tokens", str(int((turns > 0).sum())))]
    if turns.max() > 1:
        facts += [
            (f"turn {turn}", number(_mean(np.abs(delta[turns == turn]))))
            for turn in range(1, int(turns.max()) + 1)
        ]
    for side, versions in zip(("engine", "trainer"), shelf.versions, strict=True):
        if versions is not None:
            said = sorted(set(versions[at][turns > 0].tolist()))
            facts.append((f"weights, {side}", ", ".join(map(str, said))))
    if shelf.in_loss is not None:
        counted = int(shelf.in_loss[at][turns > 0].sum())
        facts.append(("in the loss", f"{counted} tokens"))
    words = "one side has no log-prob"
    if np.isfinite(largest):
        finite = np.where(np.isfinite(delta), delta, 0.0)
        words = f"Δ {signed(float(finite[np.abs(finite).argmax()]))}"
    return RowView(excerpt, words, facts)


def other_ids(run: RunFiles) -> list[OtherIds]:
    """Rows whose token ids differ between the sides, as far as they are of one conversation."""
    infer, train = run.captures.get(run.infer_id or ""), run.captures.get(run.train_id or "")
    if run.pair is not None or infer is None or train is None:
        return []
    found = differing_ids(infer, train)
    if found is None:
        return []
    text = {**run.text, **_text(train), **_text(infer)}
    parts = [(d, "prompt") for d in found.prompts] + [(d, "answer") for d in found.answers]
    parts.sort(key=lambda pair: pair[0].row)
    return [_other(d, part, text) for d, part in parts[:ROWS_WITH_OTHER_IDS]]


def _text(capture: Capture) -> dict[int, str]:
    return capture.token_text


def _other(found: Difference, part: str, text: dict[int, str]) -> OtherIds:
    infer, train = found.infer.tolist(), found.train.tolist()
    tail = 0  # tokens that both end with, behind the first that differs
    while tail < min(len(infer), len(train)) - found.at and infer[-1 - tail] == train[-1 - tail]:
        tail += 1
    lanes = (
        _lane("engine", infer, found.at, len(infer) - tail, text),
        _lane("trainer", train, found.at, len(train) - tail, text),
    )
    return OtherIds(found.row, part, found.at, lanes)


def _lane(side: str, ids: list[int], at: int, until: int, text: dict[int, str]) -> Lane:
    start, stop = max(0, at - BEFORE), min(len(ids), at + AFTER)
    words = [token_text(text[i]) if i in text else f"#{i}" for i in ids[start:stop]]
    own = [at <= start + position < until for position in range(len(words))]
    return Lane(side, list(zip(words, own, strict=True)), len(ids) - stop)
