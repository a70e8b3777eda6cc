"""Rows of math datasets to problems: GSM8K's columns, DAPO's (verl's), or plain ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mismatch_lab.errors import InputError
from mismatch_lab.mini.problems import extract_answer
from mismatch_lab.trainer.tasks.answers import normalise
from mismatch_lab.trainer.tasks.base import Message, Problem, Row

ANSWER_COLUMNS = ("answer", "ground_truth", "solution")


def math_problem(row: Row, request: str) -> Problem:
    """The problem of a row.

    The question is in `question` or `problem` (`request` is added to it), or in `prompt` as text
    or chat messages (taken as they are: such prompts ask for a form themselves). The answer is in
    `answer`, `ground_truth` or `solution`, or in `reward_model.ground_truth`; of a worked solution
    (GSM8K), it is the number after `#### `.

    Raises:
        InputError: the row has no question, or no answer.
    """
    return Problem(_messages(row, request), answer=_answer(row), kind=str(row.get("kind", "")))


def _messages(row: Row, request: str) -> tuple[Message, ...]:
    for column in ("question", "problem"):
        if isinstance(row.get(column), str):
            return ({"role": "user", "content": f"{row[column]} {request}".strip()},)
    return prompt_messages(row)


def prompt_messages(row: Row) -> tuple[Message, ...]:
    """The messages of a row that holds a whole prompt: `prompt` or `messages`, text or chat.

    Raises:
        InputError: the row has neither.
    """
    for column in ("prompt", "messages"):
        value = row.get(column)
        if isinstance(value, str):
            return ({"role": "user", "content": value},)
        if isinstance(value, Sequence) and value:
            return tuple(_message(message) for message in value)
    raise InputError(
        f"no question among its columns {', '.join(sorted(row))}.",
        "Name it question, problem, prompt or messages.",
    )


def _message(value: Any) -> Message:
    if not isinstance(value, Mapping) or not {"role", "content"} <= set(value):
        raise InputError("a message has no role and content.", "Write {role: …, content: …}.")
    return {"role": str(value["role"]), "content": str(value["content"])}


def _answer(row: Row) -> str:
    value: Any = next((row[c] for c in ANSWER_COLUMNS if row.get(c) is not None), None)
    if value is None and isinstance(row.get("reward_model"), Mapping):
        value = row["reward_model"].get("ground_truth")
    if value is None or not str(value).strip():
        raise InputError(
            f"no answer among its columns {', '.join(sorted(row))}.",
            f"Name it {', '.join(ANSWER_COLUMNS)} or reward_model.ground_truth.",
        )
    worked = extract_answer(str(value))
    return normalise(str(value) if worked is None else worked)
