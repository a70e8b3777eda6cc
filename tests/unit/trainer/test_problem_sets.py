"""Loading problems: files, the hub, what is held out, and the order of training."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mismatch_lab.errors import InputError, MissingDependencyError
from mismatch_lab.mini.problems import split_of
from mismatch_lab.trainer.tasks import load_task
from mismatch_lab.trainer.tasks.base import Problem, ProblemSet
from mismatch_lab.trainer.tasks.gsm8k import Gsm8k
from mismatch_lab.trainer.tasks.problem_sets import batch_at, is_heldout
from mismatch_lab.trainer.tasks.sources import Source

GSM8K_ROW = {
    "question": "Weng earns $12 an hour. Yesterday, she did 50 minutes. How much did she earn?",
    "answer": "Weng earns 12/60 = $<<12/60=0.2>>0.2 per minute.\nShe earned $10.\n#### 10",
}


def rows(n: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"question": f"What is {i} + 1?", "answer": f"#### {i + 1}"}
        for i in range(first, first + n)
    ]


def write(path: Path, lines: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def keys(problems: Any) -> set[str]:
    return {problem.key for problem in problems}


@pytest.mark.parametrize("name", ["gsm8k", "retool", "verifyif"])
def test_generated_splits_share_nothing(name: str) -> None:
    made = load_task(name).problems(Source(n_train=300, n_heldout=100))
    assert (len(made.train), len(made.heldout)) == (300, 100)
    assert (len(keys(made.train)), len(keys(made.heldout))) == (300, 100)
    assert not keys(made.train) & keys(made.heldout)
    # What is held out here was held out when the embedded model was trained.
    for split, problems in (("train", made.train), ("heldout", made.heldout)):
        asked = [problem.messages[-1]["content"] for problem in problems]
        questions = [text.removesuffix(f" {Gsm8k.request}") for text in asked]
        assert {split_of(question) for question in questions} == {split}


def test_a_line_separator_in_a_question_ends_no_line(tmp_path: Path) -> None:
    """JSON allows U+2028 in a string, and str.splitlines() splits there."""
    file = tmp_path / "a.jsonl"
    made = [{"question": f"1\u2028+ {i}?", "answer": f"#### {i + 1}"} for i in range(3)]
    lines = [json.dumps(row, ensure_ascii=False) for row in made]
    file.write_text("\n".join(lines), encoding="utf-8")
    heldout = write(tmp_path / "b.jsonl", rows(1))
    problems = load_task("gsm8k").problems(Source(str(file), heldout))
    assert [problem.answer for problem in problems.train] == ["1", "2", "3"]


def test_seed_changes_training_problems_only() -> None:
    task = load_task("gsm8k")
    first, same, other = (
        task.problems(Source(n_train=20, n_heldout=20, seed=s)) for s in (1, 1, 2)
    )
    assert first == same
    assert first.train != other.train
    assert first.heldout == other.heldout


def test_levels_are_weighted() -> None:
    made = load_task("gsm8k", {"levels": (1, 1, 1, 3)}).problems(Source(n_train=1000))
    share = sum(problem.kind == "level 1" for problem in made.train) / 1000
    assert share == pytest.approx(0.75, abs=0.05)


def test_generated_gsm8k_is_not_the_bare_question() -> None:
    # Bare, the embedded model answers nearly all: too little for RL to mend.
    (problem,) = load_task("gsm8k").problems(Source(n_train=1)).train
    (bare,) = load_task("gsm8k", {"request": ""}).problems(Source(n_train=1)).train
    assert problem.messages[-1]["content"] == f"{bare.messages[-1]['content']} {Gsm8k.request}"


def test_unknown_level() -> None:
    with pytest.raises(InputError, match="levels"):
        load_task("gsm8k", {"levels": (4,)}).problems(Source())


def test_gsm8k_row(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [GSM8K_ROW])
    other = write(tmp_path / "b.jsonl", rows(1))
    (problem,) = load_task("gsm8k").problems(Source(file, heldout=other)).train
    assert problem.answer == "10"
    (message,) = problem.messages
    assert message["role"] == "user"
    # Published request, verl's examples/data_preprocess/gsm8k.py.
    assert message["content"] == (
        GSM8K_ROW["question"]
        + ' Let\'s think step by step and output the final answer after "####".'
    )


def test_dapo_row(tmp_path: Path) -> None:
    row = {
        "prompt": [{"role": "user", "content": "What is 30 + 4? End with Answer: …"}],
        "reward_model": {"ground_truth": "34", "style": "rule"},
    }
    file, other = write(tmp_path / "a.jsonl", [row]), write(tmp_path / "b.jsonl", rows(1))
    task = load_task("retool", {"form": "answer-line"})
    (problem,) = task.problems(Source(file, heldout=other)).train
    assert problem.answer == "34"
    assert [m["role"] for m in problem.messages] == ["system", "user"]
    assert "Python" in problem.messages[0]["content"]
    assert problem.messages[1]["content"] == "What is 30 + 4? End with Answer: …"


def test_a_tenth_of_one_file_is_held_out(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", rows(500))
    made = load_task("gsm8k").problems(Source(file, n_train=0, n_heldout=1000))
    assert len(made.train) + len(made.heldout) == 500
    assert 25 <= len(made.heldout) <= 75
    assert not keys(made.train) & keys(made.heldout)
    assert all(is_heldout(p) for p in made.heldout)
    # Fewer held-out problems are asked for: the rest of the tenth is not trained on either.
    fewer = load_task("gsm8k").problems(Source(file, n_train=0, n_heldout=5))
    assert (len(fewer.train), len(fewer.heldout)) == (len(made.train), 5)


def test_repeated_and_shared_rows_are_dropped(tmp_path: Path) -> None:
    again = [{**row, "question": row["question"].upper().replace(" ", "  ")} for row in rows(3)]
    train = write(tmp_path / "a.jsonl", rows(10) + again)
    heldout = write(tmp_path / "b.jsonl", rows(4, first=8))  # 8 and 9 are in both
    made = load_task("gsm8k").problems(Source(train, heldout=heldout))
    assert (len(made.train), len(made.heldout)) == (8, 4)
    # 17 rows, 12 different questions (0 to 11).
    assert made.n_dropped == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Line 1 of .* is not JSON"),
        ("\n[1]", "Line 2 of .* is no JSON object"),
        ('{"answer": "1"}', "Row 1 of .* no question among its columns answer"),
        ('{"question": "1?"}', "Row 1 of .* no answer among its columns question"),
        ('{"prompt": [{"text": 1}], "answer": "1"}', "Row 1 of .* no role and content"),
        ("", "leaves no held-out problems"),
    ],
)
def test_wrong_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_task("gsm8k").problems(Source(str(file)))


def test_missing_file() -> None:
    with pytest.raises(InputError, match=r"no file nowhere\.jsonl"):
        load_task("gsm8k").problems(Source("nowhere.jsonl"))


def fake_datasets(monkeypatch: pytest.MonkeyPatch, splits: Any) -> list[tuple[str, str | None]]:
    asked: list[tuple[str, str | None]] = []
    module = ModuleType("datasets")

    def load_dataset(name: str, config: str | None) -> Any:
        asked.append((name, config))
        if isinstance(splits, Exception):
            raise splits
        return splits

    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_hub_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake_datasets(monkeypatch, {"train": rows(10), "test": rows(5, first=8)})
    made = load_task("gsm8k").problems(Source("openai/gsm8k:main"))
    assert asked == [("openai/gsm8k", "main")]
    assert (len(made.train), len(made.heldout), made.n_dropped) == (8, 5, 2)
    assert made.origin == "openai/gsm8k:main"


def test_hub_without_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake_datasets(monkeypatch, {"train": rows(100)})
    made = load_task("gsm8k").problems(Source("some/data"))
    assert asked == [("some/data", None)]
    assert len(made.train) + len(made.heldout) == 100
    with pytest.raises(InputError, match="no split 'validation'"):
        load_task("gsm8k").problems(Source("some/data", heldout="validation"))


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_datasets(monkeypatch, ConnectionError("no route to host"))
    with pytest.raises(InputError, match=r"ConnectionError: no route(.|\n)*\.jsonl"):
        load_task("gsm8k").problems(Source("openai/gsm8k:main"))


def test_datasets_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match="hub"):
        load_task("gsm8k").problems(Source("openai/gsm8k:main"))


def test_ifeval_rows(tmp_path: Path) -> None:
    known = {
        "key": 1,
        "prompt": "Write a poem without commas that has the word sink.",
        "instruction_id_list": ["punctuation:no_comma", "keywords:existence"],
        "kwargs": [{"keywords": None}, {"keywords": ["sink"], "num_words": None}],
    }
    unknown = {
        **known,
        "prompt": "Auf Deutsch.",
        "instruction_id_list": ["language:response_language"],
        "kwargs": [{"language": "de"}],
    }
    # IF-RLVR's rows hold the same as text, with null for no arguments.
    literal = "[{'instruction_id': ['punctuation:no_comma'], 'kwargs': [None]}]"
    multi = {"messages": [{"role": "user", "content": "No commas."}], "ground_truth": literal}
    file = write(tmp_path / "a.jsonl", [known, unknown])
    made = load_task("verifyif").problems(
        Source(file, heldout=write(tmp_path / "b.jsonl", [multi]))
    )
    (problem,) = made.train
    assert [i.id for i in problem.instructions] == ["punctuation:no_comma", "keywords:existence"]
    assert [dict(i.arguments) for i in problem.instructions] == [{}, {"keywords": ["sink"]}]
    assert made.n_dropped == 1
    assert [i.id for i in made.heldout[0].instructions] == ["punctuation:no_comma"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Hi"}, "no instructions among"),
        ({"prompt": "Hi", "instruction_id_list": [], "kwargs": []}, "0 instructions"),
        (
            {"prompt": "Hi", "instruction_id_list": ["punctuation:no_comma"], "kwargs": []},
            "1 instructions with 0",
        ),
        (
            {"prompt": "Hi", "instruction_id_list": ["keywords:existence"], "kwargs": [{}]},
            "keywords:existence: missing",
        ),
        ({"prompt": "Hi", "ground_truth": "42"}, "ground_truth is no list"),
    ],
)
def test_wrong_instruction_row(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    file = write(tmp_path / "a.jsonl", [row])
    with pytest.raises(InputError, match=message):
        load_task("verifyif").problems(Source(file))


def test_key_ignores_case_space_and_system() -> None:
    def key(*contents: tuple[str, str]) -> str:
        return Problem(tuple({"role": role, "content": text} for role, text in contents)).key

    assert key(("user", "What is  1?")) == key(("system", "Add."), ("user", " what IS 1? "))
    assert key(("user", "What is 1?")) != key(("user", "What is 2?"))
    assert key(("user", "\ud800")) == key(("user", "\ud800"))


def test_batches_follow_from_the_step_alone() -> None:
    made: ProblemSet = load_task("gsm8k").problems(Source(n_train=10, n_heldout=1))
    steps = [batch_at(made.train, step=step, size=4, seed=7) for step in range(5)]
    assert steps[3] == batch_at(made.train, step=3, size=4, seed=7)
    # 5 steps of 4 are two epochs of 10: every problem just once in each.
    drawn = [problem.key for batch in steps for problem in batch]
    assert set(drawn[:10]) == set(drawn[10:]) == keys(made.train)
    assert drawn[:10] != drawn[10:]
    assert batch_at(made.train, step=0, size=4, seed=8) != steps[0]
    # A batch that is larger than the set goes through it more than once.
    assert len(batch_at(made.train, step=0, size=25, seed=0)) == 25
