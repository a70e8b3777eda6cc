"""Token ids that differ between two captures: which part of which rows, and what it is called."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mismatch_lab.attribution.token_ids import TokenIds, differing_ids, shared, token_id_causes
from mismatch_lab.captures.capture import Capture, Rows

Row = tuple[list[int], list[int]]
ENGINE: list[Row] = [
    ([1, 10, 11], [20, 21, 22, 23]),
    ([1, 12, 13, 14], [24, 25, 26]),
    ([1, 15], [27, 28, 29, 30]),
    ([1, 16], [31, 32, 33, 34]),
]
"""Prompt and answer of each row; every prompt begins with a BOS, 1."""


def made(rows: list[Row], text: dict[int, str] | None = None) -> Capture:
    built = Rows.build(
        [prompt + answer for prompt, answer in rows],
        [len(prompt) for prompt, _ in rows],
        [[False] * len(prompt) + [True] * len(answer) for prompt, answer in rows],
    )
    return Capture(built, np.zeros(built.n_tokens, np.float32), token_text=text or {})


def changed(row: int, prompt: list[int] | None = None, answer: list[int] | None = None) -> Capture:
    rows = list(ENGINE)
    rows[row] = (prompt or rows[row][0], answer or rows[row][1])
    return made(rows)


def found(train: Capture) -> TokenIds:
    differing = differing_ids(made(ENGINE), train)
    assert differing is not None
    return differing


def test_the_same_ids_are_nothing_to_report() -> None:
    assert differing_ids(made(ENGINE), made(ENGINE)) is None


def test_rows_are_compared_prompt_and_answer_apart() -> None:
    differing = found(changed(1, prompt=[1, 12, 99, 14], answer=[24, 25, 98]))
    assert [(d.row, d.at) for d in differing.prompts] == [(1, 2)]
    assert [(d.row, d.at) for d in differing.answers] == [(1, 2)]
    assert differing.same.tolist() == [0, 2, 3]


def test_a_doubled_bos_is_a_prompt_template_of_the_side_that_has_it() -> None:
    train = made([([1, *prompt], answer) for prompt, answer in ENGINE])
    differing = found(train)
    assert differing.answers == []
    assert len(differing.same) == 0
    (cause,) = token_id_causes(differing, made(ENGINE), train)
    assert (cause.id, cause.side) == ("prompt-template", "train")
    # BOS, BOS, 10, … against BOS, 10, …: position 1 is the first that differs, by one token.
    assert [e.value for e in cause.evidence] == [4, 1, 1]
    assert "10 in the engine's and 1 in the trainer's" in cause.evidence[1].observation


def test_other_templates_are_a_prompt_template_of_either_side() -> None:
    train = made([([2, 3, *prompt], answer) for prompt, answer in ENGINE])
    (cause,) = token_id_causes(found(train), made(ENGINE), train)
    assert (cause.id, cause.side) == ("prompt-template", "both")
    assert [e.value for e in cause.evidence] == [4, 0, 2]


def test_an_answer_encoded_again_may_spell_the_same() -> None:
    # 21 spells "ab"; the trainer's 40 and 41 spell "a" and "b": one token more, the same text.
    train = changed(0, answer=[20, 40, 41, 22, 23])
    text = {20: "x", 21: "ab", 22: "y", 23: "z", 40: "a", 41: "b"}
    infer = replace(made(ENGINE), token_text=text)
    (cause,) = token_id_causes(found(train), infer, train)
    assert (cause.id, cause.side) == ("retokenisation", "train")
    assert [e.value for e in cause.evidence] == [1, 1, 1, 1]
    assert "21 'ab' in the engine's and 40 'a' in the trainer's" in cause.evidence[1].observation
    assert "same text" in cause.why
    unknown = token_id_causes(found(train), made(ENGINE), train)[0]
    assert "same text" not in unknown.why
    assert unknown.evidence[-1].value == 0
    assert unknown.confidence < cause.confidence


def test_an_answer_that_ends_early_differs_where_it_ends() -> None:
    train = changed(0, answer=[20, 21, 22])
    (cause,) = token_id_causes(found(train), made(ENGINE), train)
    assert [e.value for e in cause.evidence[:3]] == [1, 3, -1]
    assert "23 in the engine's and no token in the trainer's" in cause.evidence[1].observation


def test_rows_sampled_again_are_not_the_same_rows() -> None:
    train = made([(prompt, [token + 50 for token in answer]) for prompt, answer in ENGINE])
    assert differing_ids(made(ENGINE), train) is None


def test_another_number_of_rows_is_not_judged() -> None:
    assert differing_ids(made(ENGINE), made(ENGINE[:3])) is None


@pytest.mark.parametrize(
    ("ids", "others", "share"),
    [
        ([5, 6, 7, 8], [5, 6, 7, 8], 1.0),
        ([5, 6, 7, 8], [5, 9, 9, 8], 0.5),
        ([5, 6, 7, 8], [5, 6], 1.0),  # both begin so
        ([5, 5, 5], [5, 5], 1.0),  # head and tail do not count a token twice
        ([1, 2], [3, 4, 5], 0.0),
        ([], [3], 0.0),
        ([], [], 1.0),
    ],
)
def test_shared(ids: list[int], others: list[int], share: float) -> None:
    assert shared(np.array(ids, np.int32), np.array(others, np.int32)) == share
