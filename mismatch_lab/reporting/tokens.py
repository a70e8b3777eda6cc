"""Tokens in their context: which excerpts to show, and how strongly each token is coloured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mismatch_lab.captures.align import Aligned
from mismatch_lab.captures.capture import Capture
from mismatch_lab.measures.tokens import worst_tokens
from mismatch_lab.reporting.text import token_text

WORST = 12
CONTEXT = 10
"""Tokens shown on either side of a worst token."""
PROMPT_TAIL = 24
LONGEST_ROW = 400
"""A whole sequence is cut to this many tokens, so that a page stays small."""

LEVELS_NATS = (0.02, 0.1, 0.3, 1.0)
"""|delta| from which a token gets the next stronger colour; fixed, so that reports compare."""


@dataclass(frozen=True)
class Chip:
    """One token as shown. `css` is its colour class, `key` finds its details; "" if it has none."""

    text: str
    css: str
    key: str
    breaks: bool
    focus: bool
    """The token a reader gets to first in its excerpt."""


@dataclass(frozen=True)
class Excerpt:
    """Consecutive tokens of one row; `cut_before`/`cut_after` count the tokens left out."""

    row: int
    chips: list[Chip]
    cut_before: int
    cut_after: int
    delta: float
    """Of the token it is about (nats); of a whole row, its mean |delta|."""
    key: str
    title: str


def level_class(delta: float) -> str:
    """Colour class: `p1`..`p4` where the trainer finds the token likelier, `m1`..`m4` less so."""
    if not np.isfinite(delta):
        return "none"
    level = int(np.searchsorted(LEVELS_NATS, abs(delta), side="right"))
    return "zero" if level == 0 else f"{'p' if delta > 0 else 'm'}{level}"


class TokenShelf:
    """Makes chips, and remembers which tokens were shown so that only those carry details."""

    def __init__(self, infer: Capture, train: Capture, pair: Aligned) -> None:
        self.rows = infer.rows
        self.row_of_token = infer.rows.row_ids()
        self.text = {**train.token_text, **infer.token_text}
        self.delta = np.full(self.rows.n_tokens, np.nan)
        self.delta[pair.flat] = pair.logp_b.astype(np.float64) - pair.logp_a
        self.position = np.full(self.rows.n_tokens, -1, np.int64)
        self.position[pair.flat] = pair.positions
        self.shown: set[int] = set()

    def words(self, token_id: int) -> str:
        """Text of a token id; a capture without a tokenizer has none."""
        text = self.text.get(token_id)
        return f"#{token_id}" if text is None else token_text(text)

    def worst(self) -> list[Excerpt]:
        """The tokens with the largest |delta|, each in its context; none where no delta is."""
        found = (int(flat) for flat in worst_tokens(self.delta, WORST))
        return [self.around(flat) for flat in found if self.delta[flat] != 0]

    def around(self, flat: int) -> Excerpt:
        """A token with its context."""
        row = int(self.row_of_token[flat])
        first, last = self._span(row)
        excerpt = self._excerpt(
            row, max(first, flat - CONTEXT), min(last, flat + CONTEXT + 1), flat
        )
        title = f"row {row}, position {self.position[flat]}"
        return Excerpt(row, *excerpt, float(self.delta[flat]), str(flat), title)

    def whole(self, row: int, title: str) -> Excerpt:
        """A row: the end of its prompt, then what was sampled."""
        first, last = self._span(row)
        start = max(first, first + int(self.rows.prompt_lengths[row]) - PROMPT_TAIL)
        stop = min(last, start + LONGEST_ROW)
        delta = np.abs(self.delta[first:last])
        finite = delta[np.isfinite(delta)]
        shown = np.abs(np.nan_to_num(self.delta[start:stop], posinf=0.0, neginf=0.0))
        excerpt = self._excerpt(row, start, stop, start + int(shown.argmax()))
        return Excerpt(row, *excerpt, float(finite.mean()) if len(finite) else np.nan, "", title)

    def _span(self, row: int) -> tuple[int, int]:
        return int(self.rows.row_offsets[row]), int(self.rows.row_offsets[row + 1])

    def _excerpt(self, row: int, start: int, stop: int, focus: int) -> tuple[list[Chip], int, int]:
        first, last = self._span(row)
        chips = [self._chip(flat, flat == focus) for flat in range(start, stop)]
        return chips, start - first, last - stop

    def _chip(self, flat: int, focus: bool) -> Chip:
        token_id = int(self.rows.token_ids[flat])
        has_details = bool(self.rows.sampled[flat])
        if has_details:
            self.shown.add(flat)
        css = level_class(float(self.delta[flat])) if has_details else "prompt"
        key = str(flat) if has_details else ""
        breaks = "\n" in self.text.get(token_id, "")
        return Chip(self.words(token_id), css, key, breaks, focus)


def typical_rows(shelf: TokenShelf) -> list[tuple[int, str]]:
    """Rows with the largest, the median and the smallest mean |delta|, with a title each."""
    size = np.abs(shelf.delta)
    finite = np.isfinite(size)
    rows, n_rows = shelf.row_of_token, shelf.rows.n_rows
    counts = np.bincount(rows[finite], minlength=n_rows)
    sums = np.bincount(rows[finite], weights=size[finite], minlength=n_rows)
    having = np.flatnonzero(counts)
    if len(having) == 0:
        return []
    order = having[np.argsort(-sums[having] / counts[having], kind="stable")]
    titles = {"largest": order[0], "median": order[len(order) // 2], "smallest": order[-1]}
    chosen: dict[int, str] = {}
    for word, row in titles.items():
        rank = f"{word} mean |Δ| of {n_rows} sequences" if n_rows > 1 else "mean |Δ|"
        chosen.setdefault(int(row), rank)
    return list(chosen.items())
