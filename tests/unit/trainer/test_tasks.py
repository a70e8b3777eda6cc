"""What answers are worth, and what the tool replies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mismatch_lab.errors import InputError
from mismatch_lab.mini.problems import LEVELS, generate
from mismatch_lab.mini.stories import STORIES
from mismatch_lab.trainer.sandbox import Limits, Outcome
from mismatch_lab.trainer.tasks import TASKS, Task, load_task
from mismatch_lab.trainer.tasks.base import Instruction, Problem
from mismatch_lab.trainer.tasks.checkers import check_instruction
from mismatch_lab.trainer.tasks.code_blocks import program_in, text_after_code
from mismatch_lab.trainer.tasks.generated_instructions import KINDS, instructed, without_opener
from mismatch_lab.trainer.tasks.retool import reply_text
from mismatch_lab.trainer.tasks.sources import Source


def asked(answer: str | None, *instructions: Instruction) -> Problem:
    return Problem(({"role": "user", "content": "?"},), answer, instructions)


@pytest.fixture
def retool() -> Iterator[Task]:
    pytest.importorskip("pydantic_monty")
    task = load_task("retool", {"limits": Limits(time_s=0.3), "reply_chars": 40})
    yield task
    task.close()


@pytest.mark.parametrize(
    ("answer", "value", "answered"),
    [("2 + 3 = 5\n#### 5", 1, 1), ("#### 6", 0, 1), ("it is 5", 0, 0), ("", 0, 0)],
)
def test_gsm8k_reward(answer: str, value: float, answered: float) -> None:
    reward = load_task("gsm8k").reward(asked("5"), [answer])
    assert (reward.value, reward.parts["answered"]) == (value, answered)


def test_gsm8k_form_is_an_option() -> None:
    boxed = load_task("gsm8k", {"form": "boxed"})
    assert boxed.reward(asked("5"), [r"\boxed{5}"]).value == 1
    assert boxed.reward(asked("5"), ["#### 5"]).value == 0


def test_single_turn_tasks_never_reply() -> None:
    for name in ("gsm8k", "verifyif"):
        task = load_task(name)
        assert task.turns_max == 1
        assert task.replies(["```python\nprint(1)\n```", "#### 5"]) == [None, None]


CODE = "```python\nprint(7 * 8 + 30)\n```"


def test_programs_in_answers() -> None:
    assert program_in(f"Let me see.\n{CODE}\nthen") == "print(7 * 8 + 30)\n"
    assert program_in("```py\na = 1\n```\nand\n```python\nprint(a)\n```") == "a = 1\n\nprint(a)\n"
    assert program_in("```python\nprint(1)") is None  # cut by the token limit
    assert program_in("```\nprint(1)\n```") is None  # not said to be Python
    assert text_after_code(f"before {CODE} after") == " after"
    assert text_after_code("nothing") == "nothing"


def test_tool_replies(retool: Task) -> None:
    answers = [
        CODE,
        "#### 86",
        f"{CODE}\n#### 86",  # it does not wait for the output: this is its answer
        "#### 1\n" + CODE,  # code after an answer: it wants to see first
        "```python\n1 / 0\n```",
        "```python\nwhile True: print('x')\n```",
        "```python\nx = 1\n```",
        "no idea",
    ]
    replies = retool.replies(answers)
    assert [None if r is None else (r.text, r.ok) for r in replies] == [
        ("86", True),
        None,
        None,
        ("86", True),
        ("ZeroDivisionError: division by zero", False),
        # 40 characters of the output: 20 x and 20 line ends; and 40 of the error
        ("\n".join(["x"] * 20) + "\n\nOutputError: more than 2000 characters p", False),
        ("(no output)", True),
        None,
    ]


def test_no_program_no_sandbox() -> None:
    task = load_task("retool", {"sandbox": "none of this name"})
    assert task.replies(["#### 5"]) == [None]
    with pytest.raises(InputError, match="Unknown sandbox"):
        task.replies([CODE])


def test_output_at_a_limit_is_not_shown() -> None:
    # How far a program got in its time is not the same twice.
    outcome = Outcome("time", "1\n2\n3\n", "TimeoutError: stopped after 1 s")
    assert reply_text(outcome, 100) == "TimeoutError: stopped after 1 s"


@pytest.mark.parametrize(
    ("answers", "value", "tool_calls"),
    [
        ([CODE, "#### 86"], 1, 1),
        (["#### 86"], 1, 0),
        ([CODE, CODE, "#### 85"], 0, 2),
        (["#### 86", CODE], 0, 1),  # only the last turn answers
        ([f"{CODE}\n#### 86"], 1, 1),
    ],
)
def test_retool_reward(answers: list[str], value: float, tool_calls: float) -> None:
    reward = load_task("retool").reward(asked("86"), answers)
    assert (reward.value, reward.parts["tool_calls"]) == (value, tool_calls)


def test_retool_with_last_numbers_runs_code_all_the_same(retool: Task) -> None:
    task = load_task("retool", {"form": "last-number"})
    (reply,) = task.replies([f"Step 1: {CODE} I wait 2 turns"])
    assert reply is not None
    assert reply.text == "86"
    task.close()


NO_COMMA = Instruction("punctuation:no_comma")
START = Instruction("extra:start", {"start_phrase": "So"})


@pytest.mark.parametrize(
    ("problem", "answer", "value", "parts"),
    [
        (asked(None, NO_COMMA, START), "So be it.", 1, {"followed": 1}),
        (asked(None, NO_COMMA, START), "So, be it.", 0, {"followed": 0.5}),
        (asked(None, NO_COMMA, START), "", 0, {"followed": 0}),
        (asked("5", NO_COMMA), "2 + 3 = 5\n#### 5", 1, {"followed": 1, "correct": 1}),
        (asked("5", NO_COMMA), "#### 6", 0, {"followed": 1, "correct": 0}),
        (asked("5", NO_COMMA), "Well, #### 5", 0, {"followed": 0, "correct": 1}),
    ],
)
def test_verifyif_reward(
    problem: Problem, answer: str, value: float, parts: dict[str, float]
) -> None:
    reward = load_task("verifyif").reward(problem, [answer])
    assert (reward.value, dict(reward.parts)) == (value, parts)


def test_generated_instructions_say_what_is_checked() -> None:
    problems = load_task("verifyif").problems(Source(n_train=400)).train
    assert {problem.kind for problem in problems} == set(KINDS)
    for problem in problems:
        (instruction,) = problem.instructions
        check_instruction(instruction)
        for name, value in instruction.arguments.items():
            for word in value if isinstance(value, list) else [value]:
                assert str(word) in problem.messages[0]["content"], name


@pytest.mark.parametrize("level", LEVELS)
def test_generated_instructions_can_be_followed(level: int) -> None:
    # Without openers, a solution keeps three of the four kinds; the fourth asks for a word that
    # some of the ways to put the first step have.
    used: dict[str, list[bool]] = {}
    for made in generate(400, seed=5, levels=(level,)):
        lines = [without_opener(line) for line in made.solution.splitlines()]
        problem = instructed(made)
        reward = load_task("verifyif").reward(problem, ["\n".join(lines)])
        assert reward.parts["correct"] == 1
        if problem.kind == "use":
            used.setdefault(made.story, []).append(reward.value == 1)
        else:
            assert reward.value == 1, (problem, lines)
    assert set(used) == set(STORIES)
    assert all(any(marks) and not all(marks) for marks in used.values())


@pytest.mark.parametrize(
    ("step", "bare"),
    [
        ("Next, they cost 5.", "They cost 5."),
        ("So Sam pays 5.", "Sam pays 5."),
        ("They cost 5.", "They cost 5."),
        ("#### 5", "#### 5"),
    ],
)
def test_without_opener(step: str, bare: str) -> None:
    assert without_opener(step) == bare


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("chess", {}, "gsm8k, retool, verifyif"),
        ("gsm8k", {"colour": 1}, "form, levels"),
        ("gsm8k", {"form": "xml"}, "Unknown answer form"),
        ("retool", {"turns_max": 1}, "turns_max"),
        ("retool", {"_opened": None}, "no option '_opened'"),
    ],
)
def test_wrong_task_or_option(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_task(name, options)


def test_every_task_has_its_own_name() -> None:
    assert {load_task(name).name for name in TASKS} == set(TASKS)
