"""What a task is: problems, what the model reads, and what its answers are worth."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mismatch_lab.trainer.tasks.sources import Source

Message = dict[str, str]
Row = Mapping[str, Any]
Split = Literal["train", "heldout"]


@dataclass(frozen=True)
class Instruction:
    """One verifiable instruction: which checker, and what it is told beside the answer."""

    id: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """What the model is asked, and all that its reward needs to know."""

    messages: tuple[Message, ...]
    answer: str | None = None
    """The right final answer, normalised; None where none is asked for."""
    instructions: tuple[Instruction, ...] = ()
    kind: str = ""
    """What results may be broken down by: the level, the instruction."""

    @property
    def key(self) -> str:
        """16 hex digits from what the user says; case and spacing do not count."""
        said = [m["content"] for m in self.messages if m["role"] != "system"]
        words = " ".join(" ".join(said).casefold().split())
        return hashlib.sha256(words.encode("utf-8", "replace")).hexdigest()[:16]


@dataclass(frozen=True)
class ProblemSet:
    """Problems to train on and problems held out; no problem is in both, none is twice in one."""

    train: Sequence[Problem]
    heldout: Sequence[Problem]
    origin: str
    n_dropped: int = 0
    """Rows left out: repeated, shared by both splits, or with an instruction nobody can check."""


@dataclass(frozen=True)
class Reply:
    """What the tool says to an answer."""

    text: str
    ok: bool
    """Whether the program ran to its end."""


@dataclass(frozen=True)
class Reward:
    """`value` is what is optimised, from 0 to 1; `parts` are only shown."""

    value: float
    parts: Mapping[str, float]


class Task(Protocol):
    """One task. Its options are the arguments of its class."""

    @property
    def name(self) -> str: ...

    @property
    def turns_max(self) -> int:
        """Answers of the model in one episode; 1: single-turn."""
        ...

    @property
    def new_tokens(self) -> int:
        """Room for one answer of the embedded model (others need more)."""
        ...

    @property
    def warm_up(self) -> bool:
        """Whether the embedded model has to be taught the format first (`warm_up.py`)."""
        ...

    def problems(self, source: Source) -> ProblemSet:
        """Load or generate the problems.

        Raises:
            InputError: the source cannot be read, or a row has not what it needs.
            MissingDependencyError: a hub name is given and `datasets` is not installed.
        """
        ...

    def replies(self, answers: Sequence[str]) -> list[Reply | None]:
        """The tool's reply to each latest answer; None where the episode is over."""
        ...

    def reward(self, problem: Problem, answers: Sequence[str]) -> Reward:
        """What one episode is worth, from the text of its answers alone (pure)."""
        ...

    def close(self) -> None:
        """Let go of what the task holds (a sandbox). A second call does nothing."""
        ...
