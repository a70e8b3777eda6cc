"""Math with a Python tool, over several turns, as in ReTool (Feng et al. 2025).

The model may write a fenced Python block and end its turn; a sandbox runs it and what it printed
comes back as a message. The episode is over when a turn gives the final answer or runs nothing.
The reward is that of the final answer alone: whether code helps is for the model to find out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from mismatch_lab.errors import InputError
from mismatch_lab.mini import problems as mini
from mismatch_lab.trainer.sandbox import Limits, Outcome, Sandbox, open_sandbox
from mismatch_lab.trainer.tasks.answers import form_of, same
from mismatch_lab.trainer.tasks.base import Problem, ProblemSet, Reply, Reward, Row
from mismatch_lab.trainer.tasks.code_blocks import program_in, text_after_code
from mismatch_lab.trainer.tasks.math_rows import math_problem
from mismatch_lab.trainer.tasks.problem_sets import load
from mismatch_lab.trainer.tasks.sources import GENERATED, Source
from mismatch_lab.trainer.tasks.word_problems import generated

EMBEDDED_SYSTEM = "Use Python."
SYSTEM = (
    "You may run Python to solve the problem. Write the program in one ```python block and end "
    "your message there; the next message is what it printed, so print what you want to see. "
    "Every program starts afresh."
)


@dataclass
class Retool:
    """The task; `BytedTsinghua-SIA/DAPO-Math-17k` are the published problems (form answer-line)."""

    form: str = "hashes"
    """How the final answer is given and graded: a name in `answers.FORMS`."""
    levels: tuple[int, ...] = (2, 3)
    """Of the generated problems."""
    turns_max: int = 3
    """Answers of the model in one episode, the last one included."""
    sandbox: str = "monty"
    limits: Limits = field(default_factory=Limits)
    reply_chars: int = 300
    """What the model sees of an output or an error, at most."""

    name: ClassVar[str] = "retool"
    new_tokens: ClassVar[int] = 96
    warm_up: ClassVar[bool] = True
    _opened: Sandbox | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        form_of(self.form)
        if self.turns_max < 2:
            raise InputError("retool needs turns_max of at least 2: one to ask, one to answer.")

    def problems(self, source: Source) -> ProblemSet:
        """Generated word problems, or those of a file or of the hub."""
        if source.name == GENERATED:
            return generated(source, self.levels, embedded)
        return load(source, self._problem)

    def _problem(self, row: Row) -> Problem:
        made = math_problem(row, form_of(self.form).request)
        system = {"role": "system", "content": SYSTEM}
        return Problem((system, *made.messages), answer=made.answer, kind=made.kind)

    def replies(self, answers: Sequence[str]) -> list[Reply | None]:
        """Run the programs of all answers that ask for it; the others are final."""
        programs = {i: program for i, a in enumerate(answers) if (program := self._to_run(a))}
        outcomes = self._sandbox().run(list(programs.values())) if programs else []
        replies: list[Reply | None] = [None] * len(answers)
        for i, outcome in zip(programs, outcomes, strict=True):
            replies[i] = Reply(reply_text(outcome, self.reply_chars), outcome.status == "ok")
        return replies

    def _to_run(self, answer: str) -> str | None:
        answered = form_of(self.form).extract(text_after_code(answer)) is not None
        # A last number would be found in any text; there, only a turn without code is final.
        if answered and self.form != "last-number":
            return None
        return program_in(answer)

    def _sandbox(self) -> Sandbox:
        if self._opened is None:
            self._opened = open_sandbox(self.sandbox, self.limits)
        return self._opened

    def reward(self, problem: Problem, answers: Sequence[str]) -> Reward:
        """1 for exactly the right final answer, else 0; `tool_calls` counts turns with code."""
        found = form_of(self.form).extract(text_after_code(answers[-1]))
        correct = float(same(found, problem.answer or ""))
        tool_calls = sum(program_in(answer) is not None for answer in answers)
        parts = {
            "correct": correct,
            "answered": float(found is not None),
            "tool_calls": float(tool_calls),
        }
        return Reward(correct, parts)

    def close(self) -> None:
        """Stop the sandbox, if one was started."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None


def reply_text(outcome: Outcome, chars: int) -> str:
    """What the model is told of a run; the same run always reads the same."""
    # At a limit the output depends on how fast the machine was.
    printed = outcome.output.strip() if outcome.status in ("ok", "error", "output") else ""
    shown = [text[:chars] for text in (printed, outcome.error) if text]
    return "\n".join(shown) or "(no output)"


def embedded(problem: mini.Problem) -> Problem:
    """A word problem for the embedded model, once it has been warmed up."""
    messages = (
        {"role": "system", "content": EMBEDDED_SYSTEM},
        {"role": "user", "content": problem.question},
    )
    return Problem(messages, answer=str(problem.answer), kind=f"level {problem.level}")
