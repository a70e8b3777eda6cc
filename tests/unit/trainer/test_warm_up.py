"""What the embedded model is taught before `retool`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mismatch_lab.errors import InputError
from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.mini.data import Row
from mismatch_lab.mini.problems import generate, split_of
from mismatch_lab.trainer.tasks import TASKS, load_task, warm_up
from mismatch_lab.trainer.tasks.lessons import COURSES, expression, tool_lesson
from mismatch_lab.trainer.tasks.tokens import TaskTokeniser


class Fixed(Random):
    """Random numbers that all are the same."""

    def __init__(self, value: float) -> None:
        super().__init__(0)
        self._value = value

    def random(self) -> float:
        return self._value


@pytest.fixture(scope="module")
def tokeniser() -> TaskTokeniser:
    return TaskTokeniser(str(checkpoint_dir()))


def learnt(row: Row, tokeniser: TaskTokeniser) -> str:
    pairs = zip(row.token_ids, row.weights, strict=True)
    return tokeniser.transcript([token for token, weight in pairs if weight])


@pytest.mark.parametrize(
    ("solution", "code"),
    [
        ("So they cost 5 * 4 = 20 dollars.\n#### 20", "5 * 4"),
        ("It is 5 * 4 = 20 dollars.\nThat is 20 + 23 = 43 dollars.\n#### 43", "(5 * 4) + 23"),
        ("A 40 / 5 = 8 shells.\nB 60 - 8 = 52 shells.", "60 - (40 // 5)"),
        ("A 9 * 2 = 18.\nB 18 + 18 = 36.", "(9 * 2) + 18"),
    ],
)
def test_expression(solution: str, code: str) -> None:
    assert expression(solution) == code


def test_expressions_have_the_right_value() -> None:
    for problem in generate(300, seed=3):
        assert eval(expression(problem.solution)) == problem.answer, problem


def test_tool_lesson(tokeniser: TaskTokeniser) -> None:
    (problem,) = generate(1, seed=0, levels=(1,))
    row = tool_lesson(problem, Fixed(0.0), tokeniser)
    program = f"```python\nprint({expression(problem.solution)})\n```<|end|>"
    answer = f"#### {problem.answer}<|end|>"
    assert tokeniser.transcript(row.token_ids) == (
        f"<|system|>Use Python.<|end|><|user|>{problem.question}<|end|><|assistant|>{program}"
        f"<|tool|>{problem.answer}<|end|><|assistant|>{answer}"
    )
    assert learnt(row, tokeniser) == program + answer, "nothing is learnt of the tool's words"
    in_words = tool_lesson(problem, Fixed(0.9), tokeniser)
    assert learnt(in_words, tokeniser) == f"{problem.solution}<|end|>"


@pytest.mark.parametrize("task", sorted(COURSES))
def test_rows_repeat_with_the_seed_and_hold_nothing_out(
    task: str, tokeniser: TaskTokeniser
) -> None:
    first, again, other = (
        list(islice(warm_up.rows(task, tokeniser, seed), 20)) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    for row in first:
        text = tokeniser.transcript(row.token_ids)
        question = text.partition("<|user|>")[2].partition("<|end|>")[0]
        assert split_of(question) == "train"


def test_tasks_say_whether_they_need_a_warm_up() -> None:
    assert {name for name in TASKS if load_task(name).warm_up} == set(COURSES)


def test_a_checkpoint_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def fit(model: Any, source: Iterator[Row], *, seed: int, steps: int) -> None:
        assert next(source).token_ids
        made.append(steps)

    monkeypatch.setattr(warm_up, "fit", fit)
    folder = warm_up.warm_checkpoint("retool", tmp_path, steps=3)
    assert (folder / "model.safetensors").is_file()
    assert warm_up.warm_checkpoint("retool", tmp_path, steps=3) == folder
    assert made == [3]
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    # Another number of steps is another model.
    assert warm_up.warm_checkpoint("retool", tmp_path, steps=4) != folder
    with pytest.raises(InputError, match="There is one for: retool"):
        warm_up.warm_checkpoint("gsm8k", tmp_path)
