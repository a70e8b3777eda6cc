from itertools import islice
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.mini.data import QUESTION_WEIGHT, batches, encode_row
from mismatch_lab.mini.evaluate import Accuracy, accuracy_by_level
from mismatch_lab.mini.problems import Problem

EASY = Problem("2 + 3?", "2 + 3 = 5.\n#### 5", 5, 1, "sum")
HARD = Problem("9 * 9?", "9 * 9 = 81.\n#### 81", 81, 3, "product")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint_dir())


def test_a_row_is_the_conversation_and_counts_solutions_with_their_end(tokenizer: Any) -> None:
    row = encode_row(tokenizer, [EASY, HARD], "Be right.")
    assert tokenizer.decode(row.token_ids) == (
        "<|system|>Be right.<|end|>"
        "<|user|>2 + 3?<|end|><|assistant|>2 + 3 = 5.\n#### 5<|end|>"
        "<|user|>9 * 9?<|end|><|assistant|>9 * 9 = 81.\n#### 81<|end|>"
    )
    assert set(row.weights) == {QUESTION_WEIGHT, 1.0}
    counted = [i for i, w in zip(row.token_ids, row.weights, strict=True) if w == 1.0]
    assert tokenizer.decode(counted) == f"{EASY.solution}<|end|>{HARD.solution}<|end|>"


def test_padding_is_masked_and_weighs_nothing(tokenizer: Any) -> None:
    for batch in islice(batches(tokenizer, seed=0, size=4), 5):
        assert batch.token_ids.shape == batch.mask.shape == batch.weights.shape
        assert bool(((batch.token_ids == tokenizer.pad_token_id) == (batch.mask == 0)).all())
        assert bool(((batch.weights == 0) == (batch.mask == 0)).all())


def test_accuracy_is_counted_by_level() -> None:
    marks = accuracy_by_level([EASY, EASY, HARD], ["#### 5", "#### 6", "#### 81"])
    assert marks == {1: Accuracy(1, 2), 3: Accuracy(1, 1)}
    assert marks[1].share == 0.5


def test_no_problem_has_no_accuracy() -> None:
    share = Accuracy(0, 0).share
    assert share != share
