"""Grade-school math, single-turn, one reward for the exactly right answer (Cobbe et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mismatch_lab.mini import problems as mini
from mismatch_lab.trainer.tasks.answers import form_of, same
from mismatch_lab.trainer.tasks.base import Problem, ProblemSet, Reply, Reward, Row
from mismatch_lab.trainer.tasks.math_rows import math_problem
from mismatch_lab.trainer.tasks.problem_sets import load
from mismatch_lab.trainer.tasks.sources import GENERATED, Source
from mismatch_lab.trainer.tasks.word_problems import generated


@dataclass(frozen=True)
class Gsm8k:
    """The task; `openai/gsm8k:main` is the hub's name of the published problems."""

    form: str = "hashes"
    """How the final answer is given and graded: a name in `answers.FORMS`."""
    levels: tuple[int, ...] = (1,)
    """Of the generated problems."""
    request: str = "Solve this problem and show each step of your work."
    """Added to a generated question. The embedded model has never seen a request there: greedily it
    answers 31 % of these problems (n = 200), and 96 % of the bare questions (n = 128). What RL has
    to mend is well within what the model can do, and takes minutes; arithmetic takes hours."""

    name: ClassVar[str] = "gsm8k"
    turns_max: ClassVar[int] = 1
    new_tokens: ClassVar[int] = 96
    warm_up: ClassVar[bool] = False

    def __post_init__(self) -> None:
        form_of(self.form)

    def problems(self, source: Source) -> ProblemSet:
        """Generated word problems, or those of a file or of the hub."""
        if source.name == GENERATED:
            return generated(source, self.levels, self._word_problem)
        return load(source, self._problem)

    def _word_problem(self, problem: mini.Problem) -> Problem:
        message = {"role": "user", "content": f"{problem.question} {self.request}".strip()}
        return Problem((message,), str(problem.answer), kind=f"level {problem.level}")

    def _problem(self, row: Row) -> Problem:
        return math_problem(row, form_of(self.form).request)

    def replies(self, answers: Sequence[str]) -> list[Reply | None]:
        """Nobody replies: the first answer is the last."""
        return [None] * len(answers)

    def reward(self, problem: Problem, answers: Sequence[str]) -> Reward:
        """1 for exactly the right answer, else 0; `answered`: there is one in the right form."""
        found = form_of(self.form).extract(answers[-1])
        correct = float(same(found, problem.answer or ""))
        return Reward(correct, {"correct": correct, "answered": float(found is not None)})

    def close(self) -> None:
        """Nothing is held."""
