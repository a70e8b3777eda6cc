"""Generated word problems in the form of GSM8K, with splits that never overlap.

The same seed gives the same problems on every machine. Whether a problem belongs to `train` or to
`heldout` is decided by a hash of its question, so no generator of one split can produce a problem
of the other, whatever its seed.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Literal

from mismatch_lab.mini.stories import STORIES

Split = Literal["train", "heldout"]

LEVELS = (1, 2, 3)
HELDOUT_PERCENT = 10
# The marker and number form of GSM8K: "#### 1,234", possibly negative or decimal.
ANSWER = re.compile(r"#### (-?[0-9][0-9.,]*)")


@dataclass(frozen=True)
class Problem:
    """A word problem, its worked solution (ending in `#### answer`) and where it came from."""

    question: str
    solution: str
    answer: int
    level: int
    """Number of arithmetic steps: 1, 2 or 3; it also bounds the size of the numbers."""
    story: str


def split_of(question: str) -> Split:
    """The split a question belongs to, from its SHA-256 alone."""
    bucket = int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big") % 100
    return "heldout" if bucket < HELDOUT_PERCENT else "train"


def stream(seed: int, split: Split, levels: Sequence[int] = LEVELS) -> Iterator[Problem]:
    """Endless problems of one split, level and story drawn evenly; a question may come again.

    Raises:
        ValueError: if the split or a level is unknown, or no level is given.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f"unknown split {split!r}; choose 'train' or 'heldout'")
    if not levels or set(levels) - set(LEVELS):
        raise ValueError(f"levels must be a non-empty choice of {LEVELS}, got {tuple(levels)}")
    # A string seed is hashed by `Random` itself, the same way in every process.
    return _draw(Random(f"{split}:{seed}"), split, tuple(levels))


def _draw(rng: Random, split: Split, levels: tuple[int, ...]) -> Iterator[Problem]:
    names = tuple(STORIES)
    while True:
        level, story = rng.choice(levels), rng.choice(names)
        draft = STORIES[story](rng, level)
        if split_of(draft.question) == split:
            solution = "\n".join((*draft.steps, f"#### {draft.answer}"))
            yield Problem(draft.question, solution, draft.answer, level, story)


def generate(
    n: int, *, seed: int, split: Split = "train", levels: Sequence[int] = LEVELS
) -> list[Problem]:
    """`n` problems with different questions. Same arguments, same problems."""
    return list(islice(_distinct(stream(seed, split, levels)), n))


def _distinct(problems: Iterator[Problem]) -> Iterator[Problem]:
    seen: set[str] = set()
    for problem in problems:
        if problem.question not in seen:
            seen.add(problem.question)
            yield problem


def extract_answer(text: str) -> str | None:
    """The number after the first `#### `, without thousands separators; None where there is none.

    As in GSM8K's own `extract_answer`, except that a full stop after the number is not part of it.
    """
    found = ANSWER.search(text)
    return found[1].replace(",", "").rstrip(".") if found else None


def grade(text: str, answer: int | str) -> bool:
    """Whether a completion gives exactly this answer, as GSM8K is graded: equal strings."""
    return extract_answer(text) == str(answer).replace(",", "")
