"""Two captures of the same conversations that hold different token ids: where, and why.

The answer decides whether two rows are the same conversation: a trainer that renders another
prompt keeps it, one that encodes text again keeps most of it. Rows sampled twice share little more
than the prompt; those are not the same rows, and nothing is said of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.attribution.build_cause import Side, build_cause
from mismatch_lab.captures.capture import Capture, Int64
from mismatch_lab.schema import Cause, Observation

Ids = NDArray[np.int32]

NAMES: dict[Side, str] = {"infer": "engine", "train": "trainer"}

KIN = 0.5
"""Rows are of one conversation if their answers share this much of the shorter one, from either
end."""

MOST = 0.75
"""Share of rows that must be."""


@dataclass(frozen=True)
class Difference:
    """One part of one row, prompt or answer, whose ids differ between the sides."""

    row: int
    at: int
    """First differing position, counted from the start of the part."""
    infer: Ids
    """Ids of the part on the engine's side."""
    train: Ids

    @property
    def longer_by(self) -> int:
        """Tokens that the trainer has more."""
        return len(self.train) - len(self.infer)

    @property
    def doubled(self) -> Side | None:
        """The side that has the first token twice and is otherwise the same."""
        for side, long, short in (
            ("train", self.train, self.infer),
            ("infer", self.infer, self.train),
        ):
            if len(long) > 1 and long[0] == long[1] and np.array_equal(long[1:], short):
                return side  # type: ignore[return-value]
        return None


@dataclass(frozen=True)
class TokenIds:
    """How the ids of two captures differ."""

    n_rows: int
    same: Int64
    """Rows whose ids and sampled marks agree."""
    prompts: list[Difference]
    answers: list[Difference]


def differing_ids(infer: Capture, train: Capture) -> TokenIds | None:
    """Where ids differ; None if they agree, or if most rows are not of one conversation."""
    a, b = infer.rows, train.rows
    alike = np.array_equal(a.row_offsets, b.row_offsets)
    if a.n_rows != b.n_rows or (alike and np.array_equal(a.token_ids, b.token_ids)):
        return None
    same, kin = [], 0
    prompts: list[Difference] = []
    answers: list[Difference] = []
    for row, ((start, stop), (begin, end)) in enumerate(zip(a.spans(), b.spans(), strict=True)):
        ids, others = a.token_ids[start:stop], b.token_ids[begin:end]
        if np.array_equal(ids, others):
            kin += 1
            if np.array_equal(a.sampled[start:stop], b.sampled[begin:end]):
                same.append(row)
            continue
        cut, cut_b = int(a.prompt_lengths[row]), int(b.prompt_lengths[row])
        prompts += _difference(row, ids[:cut], others[:cut_b])
        answers += _difference(row, ids[cut:], others[cut_b:])
        kin += shared(ids[cut:], others[cut_b:]) >= KIN
    if not (prompts or answers) or kin < MOST * a.n_rows:
        return None
    return TokenIds(a.n_rows, np.array(same, np.int64), prompts, answers)


def shared(ids: Ids, others: Ids) -> float:
    """Share of the shorter one that both begin with, or end with.

    >>> shared(np.array([5, 6, 7, 8], np.int32), np.array([5, 9, 7, 8], np.int32))
    0.75
    """
    least = min(len(ids), len(others))
    if not least:
        return float(len(ids) == len(others))
    head = _agreeing(ids, others)
    tail = min(_agreeing(ids[::-1], others[::-1]), least - head)
    return (head + tail) / least


def _agreeing(ids: Ids, others: Ids) -> int:
    """How many tokens both begin with."""
    least = min(len(ids), len(others))
    differs = np.flatnonzero(ids[:least] != others[:least])
    return int(differs[0]) if len(differs) else least


def _difference(row: int, ids: Ids, others: Ids) -> list[Difference]:
    if np.array_equal(ids, others):
        return []
    return [Difference(row, _agreeing(ids, others), ids, others)]


def token_id_causes(found: TokenIds, infer: Capture, train: Capture) -> list[Cause]:
    """One cause for prompts that differ, one for answers that do."""
    text = {**train.token_text, **infer.token_text}
    causes = []
    if found.prompts:
        doubled = {d.doubled for d in found.prompts}
        side = doubled.pop() if len(doubled) == 1 else None
        more = f": the {NAMES[side]} has the first token twice" if side else ""
        why = (
            f"The prompts of {len(found.prompts)} of {found.n_rows} rows have other ids{more}. "
            f"{_first(found.prompts[0], 'prompt', text)}"
        )
        evidence = _evidence(found.prompts, found.n_rows, "prompt", text)
        causes.append(build_cause("prompt-template", side or "both", 0.95, why, evidence))
    if found.answers:
        told = [_same_text(d, text) for d in found.answers]
        spelt = ", spelling the same text" if all(told) else ""
        why = (
            f"The answers of {len(found.answers)} of {found.n_rows} rows have other ids{spelt}: "
            "the trainer scores tokens that the engine did not sample. "
            f"{_first(found.answers[0], 'answer', text)}"
        )
        evidence = _evidence(found.answers, found.n_rows, "answer", text)
        evidence.append(
            Observation(
                observation="rows whose answers are the same text in other tokens",
                value=sum(told),
                expected="all of them, if text was encoded again",
            )
        )
        causes.append(
            build_cause("retokenisation", "train", 0.95 if all(told) else 0.85, why, evidence)
        )
    return causes


def _evidence(
    differences: list[Difference], n_rows: int, part: str, text: Mapping[int, str]
) -> list[Observation]:
    first = differences[0]
    longer = [d.longer_by for d in differences]
    return [
        Observation(
            observation=f"rows of {n_rows} whose {part} ids differ",
            value=len(differences),
            expected="0",
        ),
        Observation(
            observation=f"first differing position in the {part} of row {first.row}: "
            f"{_pair(first, text)}",
            value=first.at,
            expected="none",
        ),
        Observation(
            observation=f"tokens that the trainer's {part} is longer by, from {min(longer)} to "
            f"{max(longer)}; mean",
            value=float(np.mean(longer)),
            expected="0",
        ),
    ]


def _first(difference: Difference, part: str, text: Mapping[int, str]) -> str:
    where = f"position {difference.at} of the {part} of row {difference.row}"
    return f"First at {where}: {_pair(difference, text)}."


def _pair(difference: Difference, text: Mapping[int, str]) -> str:
    """Both sides' tokens at the first differing position."""
    sides = (("engine", difference.infer), ("trainer", difference.train))
    return " and ".join(
        f"{_token(ids, difference.at, text)} in the {side}'s" for side, ids in sides
    )


def _token(ids: Ids, at: int, text: Mapping[int, str]) -> str:
    if at >= len(ids):
        return "no token"
    known = text.get(int(ids[at]))
    return f"{ids[at]}" if known is None else f"{ids[at]} {known!r}"


def _same_text(difference: Difference, text: Mapping[int, str]) -> bool:
    """Whether both sides' tokens spell the same; False where a token's text is not known."""
    spelt = [
        "".join(text[int(token)] for token in ids) if all(int(t) in text for t in ids) else None
        for ids in (difference.infer, difference.train)
    ]
    return spelt[0] is not None and spelt[0] == spelt[1]
