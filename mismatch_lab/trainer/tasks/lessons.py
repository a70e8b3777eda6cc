"""Conversations that teach the embedded model the form of a task, for `warm_up.py`.

A lesson shows the wanted behaviour on some problems only, and on the others what the model did
before: it then does both, now and then, and that the one pays is left for RL to find out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from mismatch_lab.mini import problems as mini
from mismatch_lab.mini.data import Row
from mismatch_lab.trainer.tasks.base import Problem
from mismatch_lab.trainer.tasks.code_blocks import fenced
from mismatch_lab.trainer.tasks.retool import embedded
from mismatch_lab.trainer.tasks.tokens import TaskTokeniser

Lesson = Callable[[mini.Problem, Random, TaskTokeniser], Row]

TOOL_SHARE = 0.4
_STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


def tool_lesson(problem: mini.Problem, rng: Random, tokeniser: TaskTokeniser) -> Row:
    """A problem solved by a program or, more often, in words."""
    if rng.random() >= TOOL_SHARE:
        return conversation(embedded(problem), [problem.solution], [], tokeniser)
    program = fenced(f"print({expression(problem.solution)})")
    answers = [program, f"#### {problem.answer}"]
    return conversation(embedded(problem), answers, [str(problem.answer)], tokeniser)


def conversation(
    problem: Problem, answers: list[str], replies: list[str], tokeniser: TaskTokeniser
) -> Row:
    """Token ids of a whole episode as it should go; only the model's own turns have weight."""
    row = Row([], [])
    _extend(row, tokeniser.prompt_ids(problem), 0.0)
    for turn, answer in enumerate(answers):
        if turn:
            between = tokeniser.reply_ids(replies[turn - 1], row.token_ids[-1], truncated=False)
            _extend(row, between, 0.0)
        _extend(row, tokeniser.answer_ids(answer), 1.0)
    return row


def _extend(row: Row, ids: list[int], weight: float) -> None:
    row.token_ids.extend(ids)
    row.weights.extend([weight] * len(ids))


def expression(solution: str) -> str:
    """A worked solution as one Python expression: `(7 * 8) + 30`.

    Each step but the first uses the result of the one before.
    """
    code, last = "", ""
    for left, operator, right, result in _STEP.findall(solution):
        if code and left == last:
            left = f"({code})"
        elif code and right == last:
            right = f"({code})"
        # The numbers divide: an answer of 8.0 would be wrong.
        code = f"{left} {operator.replace('/', '//')} {right}"
        last = result
    return code


@dataclass(frozen=True)
class Course:
    """What is taught, and on problems of which levels: those of the task, or more."""

    lesson: Lesson
    levels: tuple[int, ...]


COURSES: dict[str, Course] = {
    "retool": Course(tool_lesson, (1, 2, 3)),
}
