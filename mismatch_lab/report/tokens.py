"""Tokens in their context: which excerpts to show, and how strongly each token is coloured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.align import Aligned
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.measures.tokens import worst_tokens
from mismatch_lab.report.text import token_text

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
    infer: str = ""
    """Probability that the engine gives it, in percent."""
    train: str = ""
    mark: str = ""
    """What begins with it: a turn, or other weights."""


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


def percents(logp: float) -> str:
    """A probability as it stands under a token, in percent; `–` where there is none.

    >>> [percents(x) for x in (-0.0001, -0.7, -4.0, -9.0, float("nan"))]
    ['100', '50', '1.8', '0.01', '–']
    """
    if not logp <= 1:  # NaN, or no log-prob
        return "–"
    share = 100 * float(np.exp(logp))
    return f"{share:.0f}" if share >= 10 else f"{share:.2g}" if share >= 1e-2 else f"{share:.0e}"


def turns_of(rows: Rows) -> NDArray[np.int64]:
    """[T] which answer of its row a sampled token belongs to, from 1 on; 0 for all others."""
    before = rows.sampled.copy()
    before[1:] = rows.sampled[:-1]
    before[rows.row_offsets[:-1]] = False
    begins = rows.sampled & ~before
    count: NDArray[np.int64] = np.cumsum(begins)
    earlier = count[rows.row_offsets[:-1]] - begins[rows.row_offsets[:-1]]
    return np.where(rows.sampled, count - earlier[rows.row_ids()], 0)


class TokenShelf:
    """Makes chips, and remembers which tokens were shown so that only those carry details."""

    def __init__(
        self, infer: Capture, train: Capture, pair: Aligned, text: Mapping[int, str] | None = None
    ) -> None:
        """Args:
        infer: what the engine said.
        train: what the trainer said of the same tokens.
        pair: the sampled tokens of both.
        text: of token ids, where the captures have none.
        """
        self.rows = infer.rows
        self.row_of_token = infer.rows.row_ids()
        self.text = {**(text or {}), **train.token_text, **infer.token_text}
        self.logp = (infer.logp, train.logp)
        self.versions = (infer.versions, train.versions)
        self.in_loss = infer.loss_mask if infer.loss_mask is not None else train.loss_mask
        self.turns = turns_of(self.rows)
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
        first, last = self.span(row)
        excerpt = self._excerpt(
            row, max(first, flat - CONTEXT), min(last, flat + CONTEXT + 1), flat
        )
        title = f"row {row}, position {self.position[flat]}"
        return Excerpt(row, *excerpt, float(self.delta[flat]), str(flat), title)

    def whole(self, row: int, title: str) -> Excerpt:
        """A row: the end of its prompt, then what was sampled; of a long one the part in which it
        differs most.
        """
        first, last = self.span(row)
        start = max(first, first + int(self.rows.prompt_lengths[row]) - PROMPT_TAIL)
        size = np.abs(np.nan_to_num(self.delta[start:last], posinf=0.0, neginf=0.0))
        focus = start + int(size.argmax())
        if last - start > LONGEST_ROW:
            start = min(max(start, focus - LONGEST_ROW // 2), last - LONGEST_ROW)
        excerpt = self._excerpt(row, start, min(last, start + LONGEST_ROW), focus)
        delta = np.abs(self.delta[first:last])
        finite = delta[np.isfinite(delta)]
        return Excerpt(row, *excerpt, float(finite.mean()) if len(finite) else np.nan, "", title)

    def span(self, row: int) -> tuple[int, int]:
        return int(self.rows.row_offsets[row]), int(self.rows.row_offsets[row + 1])

    def _excerpt(self, row: int, start: int, stop: int, focus: int) -> tuple[list[Chip], int, int]:
        first, last = self.span(row)
        chips = [self._chip(flat, flat == focus) for flat in range(start, stop)]
        return chips, start - first, last - stop

    def _chip(self, flat: int, focus: bool) -> Chip:
        token_id = int(self.rows.token_ids[flat])
        has_details = bool(self.rows.sampled[flat])
        if has_details:
            self.shown.add(flat)
        breaks = "\n" in self.text.get(token_id, "")
        if not has_details:
            return Chip(self.words(token_id), "prompt", "", breaks, focus)
        css = level_class(float(self.delta[flat]))
        infer, train = (percents(float(logp[flat])) for logp in self.logp)
        return Chip(
            self.words(token_id), css, str(flat), breaks, focus, infer, train, self._mark(flat)
        )

    def _mark(self, flat: int) -> str:
        """The turn that begins with a token, of a row with several, and the weights where they are
        not those of the token before.
        """
        row = int(self.row_of_token[flat])
        begins = flat == 0 or self.turns[flat - 1] != self.turns[flat]
        several = self.turns[slice(*self.span(row))].max() > 1
        said = [f"turn {self.turns[flat]}"] if begins and several else []
        versions = self.versions[0]
        if versions is not None and (begins or versions[flat] != versions[flat - 1]):
            said.append(f"weights {versions[flat]}")
        return ", ".join(said)
