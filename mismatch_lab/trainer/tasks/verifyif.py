"""Verifiable instructions, single-turn (IFEval, Zhou et al. 2023; IF-RLVR, Pyatkin et al. 2025)."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mismatch_lab.errors import InputError
from mismatch_lab.mini.problems import extract_answer
from mismatch_lab.trainer.tasks.answers import same
from mismatch_lab.trainer.tasks.base import Instruction, Problem, ProblemSet, Reply, Reward, Row
from mismatch_lab.trainer.tasks.checkers import CHECKERS, check_instruction, follows
from mismatch_lab.trainer.tasks.generated_instructions import instructed
from mismatch_lab.trainer.tasks.math_rows import prompt_messages
from mismatch_lab.trainer.tasks.problem_sets import load
from mismatch_lab.trainer.tasks.sources import GENERATED, Source
from mismatch_lab.trainer.tasks.word_problems import generated


@dataclass(frozen=True)
class VerifyIf:
    """The task; `google/IFEval` and `allenai/IF_multi_constraints_upto5` are rows it reads."""

    levels: tuple[int, ...] = (1,)
    """Of the generated word problems that the instructions are about."""

    name: ClassVar[str] = "verifyif"
    turns_max: ClassVar[int] = 1
    new_tokens: ClassVar[int] = 96
    warm_up: ClassVar[bool] = False

    def problems(self, source: Source) -> ProblemSet:
        """Generated word problems with an instruction, or the rows of a file or of the hub.

        Rows with an instruction that has no checker are dropped and counted.
        """
        if source.name == GENERATED:
            return generated(source, self.levels, instructed)
        return load(source, instructed_row)

    def replies(self, answers: Sequence[str]) -> list[Reply | None]:
        """Nobody replies: the first answer is the last."""
        return [None] * len(answers)

    def reward(self, problem: Problem, answers: Sequence[str]) -> Reward:
        """1 where every instruction is followed (IFEval's strict accuracy per prompt), else 0.

        A problem that also has an answer must have it right too: otherwise the shortest way to
        follow an instruction is to say nothing else. `followed` is the share of instructions.
        """
        marks = [follows(answers[-1], instruction) for instruction in problem.instructions]
        parts = {"followed": sum(marks) / len(marks)}
        value = float(all(marks))
        if problem.answer is not None:
            parts["correct"] = float(same(extract_answer(answers[-1]), problem.answer))
            value *= parts["correct"]
        return Reward(value, parts)

    def close(self) -> None:
        """Nothing is held."""


def instructed_row(row: Row) -> Problem | None:
    """A row of IFEval (`prompt`, `instruction_id_list`, `kwargs`) or of IF-RLVR (`messages`, and a
    `ground_truth` that holds a list of `instruction_id` and `kwargs`, as text).

    None where one of its instructions has no checker.

    Raises:
        InputError: the row has no prompt or no instructions, or wrong arguments for one.
    """
    ids, arguments = _instruction_lists(row)
    if not ids or len(ids) != len(arguments):
        raise InputError(
            f"{len(ids)} instructions with {len(arguments)} sets of arguments.",
            "instruction_id_list and kwargs have one entry per instruction.",
        )
    if not set(ids) <= set(CHECKERS):
        return None
    # The hub's tables fill the arguments of all other instructions in, as null.
    pairs = zip(ids, arguments, strict=True)
    instructions = tuple(
        Instruction(id_, {k: v for k, v in (given or {}).items() if v is not None})
        for id_, given in pairs
    )
    for instruction in instructions:
        check_instruction(instruction)
    return Problem(prompt_messages(row), None, instructions, "+".join(ids))


def _instruction_lists(row: Row) -> tuple[list[str], list[Mapping[str, Any] | None]]:
    if "instruction_id_list" in row:
        return list(row["instruction_id_list"]), list(row.get("kwargs") or [])
    if "ground_truth" not in row:
        raise InputError(
            f"no instructions among its columns {', '.join(sorted(row))}.",
            "Give instruction_id_list and kwargs, as IFEval has them.",
        )
    (truth,) = _literal(str(row["ground_truth"]))
    return list(truth["instruction_id"]), list(truth["kwargs"])


def _literal(text: str) -> list[dict[str, Any]]:
    """A list with one object, written as JSON or as a Python literal (the published rows vary)."""
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError):
            continue
        if (
            isinstance(value, list)
            and len(value) == 1
            and {"instruction_id", "kwargs"} <= set(value[0])
        ):
            return value
    raise InputError(
        f"its ground_truth is no list with one object of instruction_id and kwargs: {text[:80]!r}",
        "Write it as allenai/IF_multi_constraints_upto5 does, or give instruction_id_list.",
    )
