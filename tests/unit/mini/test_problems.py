import re
import subprocess
import sys
from itertools import islice

import pytest

from mismatch_lab.mini.problems import (
    LEVELS,
    Problem,
    extract_answer,
    generate,
    grade,
    split_of,
    stream,
)
from mismatch_lab.mini.stories import STORIES

EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


def computed(left: int, sign: str, right: int) -> int:
    if sign == "/":
        assert left % right == 0
        return left // right
    return {"+": left + right, "-": left - right, "*": left * right}[sign]


def test_same_seed_gives_the_same_problems_and_another_seed_others() -> None:
    assert generate(50, seed=3) == generate(50, seed=3)
    assert generate(50, seed=3) != generate(50, seed=4)


def test_problems_do_not_depend_on_the_hash_seed_of_the_process() -> None:
    code = "from mismatch_lab.mini.problems import generate; print(generate(5, seed=3))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert printed == {str(generate(5, seed=3))}


def test_splits_never_share_a_question() -> None:
    train = {p.question for seed in range(3) for p in generate(1500, seed=seed, split="train")}
    heldout = {p.question for seed in range(3) for p in generate(500, seed=seed, split="heldout")}
    assert not train & heldout
    assert {split_of(q) for q in train} == {"train"}
    assert {split_of(q) for q in heldout} == {"heldout"}


def test_questions_of_one_list_are_distinct() -> None:
    questions = [p.question for p in generate(1000, seed=0, levels=(1,))]
    assert len(set(questions)) == 1000


@pytest.mark.parametrize("level", LEVELS)
def test_every_step_is_right_and_the_last_one_is_the_answer(level: int) -> None:
    problems = generate(400, seed=1, levels=(level,))
    assert {p.story for p in problems} == set(STORIES)
    for problem in problems:
        *steps, last = problem.solution.split("\n")
        equations = [EQUATION.findall(step) for step in steps]
        # A level is its number of steps, and a step is one sentence with one equation.
        assert [len(found) for found in equations] == [1] * level
        results = []
        for ((left, sign, right, result),) in equations:
            assert computed(int(left), sign, int(right)) == int(result)
            results.append(int(result))
        assert results[-1] == problem.answer >= 0
        assert last == f"#### {problem.answer}"


def test_stream_may_be_restricted_to_levels() -> None:
    assert {p.level for p in islice(stream(0, "train", (2, 3)), 50)} == {2, 3}


def test_unknown_split_or_level_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown split 'test'"):
        stream(0, "test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="levels must be"):
        stream(0, "train", (1, 4))
    with pytest.raises(ValueError, match="levels must be"):
        stream(0, "train", ())


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It is 3 + 4 = 7.\n#### 7", "7"),
        ("#### 1,234", "1234"),
        ("#### -5.", "-5"),
        ("#### 1.5", "1.5"),
        # A model that goes on after its answer is graded on its first one.
        ("#### 7\n#### 8", "7"),
        ("The answer is 7", None),
        ("####7", None),
        ("#### seven", None),
        ("", None),
    ],
)
def test_answer_is_the_number_after_the_first_marker(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


def test_grading_compares_numbers_as_strings() -> None:
    assert grade("#### 42", 42)
    assert grade("#### 1,234", "1,234")
    assert not grade("#### 42.0", 42)
    assert not grade("42", 42)


def test_a_solution_is_graded_right_and_another_answer_wrong() -> None:
    for problem in generate(100, seed=2, split="heldout"):
        assert isinstance(problem, Problem)
        assert grade(problem.solution, problem.answer)
        assert not grade(problem.solution, problem.answer + 1)
