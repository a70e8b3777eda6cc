"""Causes that two lists of log-probs show by themselves.

Token ids that differ between two captures: which part of which rows, and what it is called.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mismatch_lab.attribution import two_captures
from mismatch_lab.attribution.thresholds import THRESHOLDS
from mismatch_lab.attribution.two_captures import (
    TokenIds,
    causes_of_two,
    differing_ids,
    looked_at,
    off_their_distribution,
    shared,
    token_id_causes,
)
from mismatch_lab.captures.capture import Capture, Rows

ROWS, ANSWER = 12, 30


def expected() -> Capture:
    """12 rows of one prompt token and 30 sampled ones at 0 to 5 nats, all apart."""
    rows = Rows.build(
        [list(range(ANSWER + 1))] * ROWS, [1] * ROWS, [[False] + [True] * ANSWER] * ROWS
    )
    logp = -np.random.default_rng(0).uniform(0.01, 5.0, rows.n_tokens).astype(np.float32)
    logp[rows.row_offsets[:-1]] = np.nan
    return Capture(rows, logp)


def with_logp(base: Capture, logp: np.ndarray) -> Capture:
    return replace(base, logp=logp.astype(np.float32))


def noisy(base: Capture, size: float, seed: int = 1) -> Capture:
    noise = np.random.default_rng(seed).normal(0, size, len(base.logp))
    return with_logp(base, np.minimum(base.logp + noise, 0))


def named(infer: Capture, train: Capture) -> list[tuple[str, str]]:
    return [(cause.id, cause.side) for cause in causes_of_two(infer, train)]


def moved(base: Capture, by: int, rows: int = ROWS) -> Capture:
    """The first rows carry their neighbours' values; beyond a row's end the value stays."""
    logp = base.logp.copy()
    for start, stop in list(base.rows.spans())[:rows]:
        answer = base.logp[start + 1 : stop]
        at = np.clip(np.arange(len(answer)) + by, 0, len(answer) - 1)
        logp[start + 1 : stop] = answer[at]
    return with_logp(base, logp)


def test_the_same_log_probs_show_nothing() -> None:
    assert causes_of_two(expected(), expected()) == []


@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.3])
def test_noise_shows_nothing(size: float) -> None:
    assert causes_of_two(expected(), noisy(expected(), size)) == []


@pytest.mark.parametrize(
    ("value", "id"),
    [(0.0, "missing-logprobs"), (-9999.0, "sentinel-values"), (1.0, "sentinel-values")],
)
def test_placeholders_are_the_side_that_carries_them(value: float, id: str) -> None:
    base = noisy(expected(), 1e-4)
    logp = base.logp.copy()
    logp[[5, 40, 41, 200]] = value
    spoiled = with_logp(base, logp)
    (cause,) = causes_of_two(expected(), spoiled)
    assert (cause.id, cause.side) == (id, "train")
    assert cause.evidence[0].value == 4
    # Of 360 tokens 356 are left, whose noise of 1e-4 has a mean size of sqrt(2 / pi) of it.
    assert cause.confirmed_by[0].after == pytest.approx(0.8e-4, rel=0.15)
    assert cause.confirmed_by[0].before > 100 * cause.confirmed_by[0].after
    assert named(spoiled, expected()) == [(id, "infer")]


def test_a_constant_at_the_end_of_rows_is_the_terminal_token() -> None:
    logp = noisy(expected(), 1e-4).logp.copy()
    logp[expected().rows.row_offsets[1:] - 1] = -100.0
    assert named(expected(), with_logp(expected(), logp)) == [("terminal-token", "train")]


@pytest.mark.parametrize("by", [-1, 1])
def test_a_neighbours_values_are_a_shift_of_either_side(by: int) -> None:
    base = noisy(expected(), 0.02)
    (cause,) = causes_of_two(expected(), moved(base, by))
    assert (cause.id, cause.side) == ("shift-by-one", "both")
    # Independent values between 0 and 5 nats lie 5/3 apart on average; noise of 0.02, 0.016.
    assert cause.confirmed_by[0].before == pytest.approx(5 / 3, rel=0.15)
    assert cause.confirmed_by[0].after == pytest.approx(0.016, rel=0.3)


def test_a_shift_in_some_rows_is_counted() -> None:
    (cause,) = causes_of_two(expected(), moved(noisy(expected(), 0.002), -1, rows=3))
    assert cause.id == "shift-by-one"
    assert f"in 3 of {ROWS} rows" in cause.why


def test_recorded_distributions_say_which_side_is_shifted() -> None:
    shifted = moved(expected(), -1)
    at = np.flatnonzero(expected().rows.sampled)[::3]
    full = np.full((len(at), ANSWER + 1), -50.0, np.float32)
    full[np.arange(len(at)), expected().rows.token_ids[at]] = expected().logp[at]
    # The distributions are those of the sound log-probs: a shifted side with them is off …
    shifted_told = replace(shifted, probe_positions=at, probe_logp=full)
    assert off_their_distribution(expected(), shifted_told) == "train"
    # … and beside a sound side with them, the other one is.
    sound_told = replace(expected(), probe_positions=at, probe_logp=full)
    assert off_their_distribution(sound_told, shifted) == "train"
    assert off_their_distribution(shifted, sound_told) == "infer"
    assert off_their_distribution(expected(), shifted) == "both"


@pytest.mark.parametrize(
    ("grid", "digits"), [("of bfloat16", None), ("of 2 decimals", 2), ("of 3 decimals", 3)]
)
def test_a_coarse_grid_is_the_side_that_lies_on_it(grid: str, digits: int | None) -> None:
    logp = expected().logp
    if digits is None:  # bfloat16 keeps the upper 16 bits; cut off, where programs would round
        rounded = (logp.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    else:
        rounded = np.round(logp, digits)
    (cause,) = causes_of_two(with_logp(expected(), rounded), noisy(expected(), 1e-6))
    assert (cause.id, cause.side) == ("logprob-precision", "infer")
    assert grid in cause.why
    assert cause.evidence[0].value == 1.0


def test_rounding_that_explains_the_difference_is_surer_than_rounding_that_does_not() -> None:
    rounded = with_logp(expected(), np.round(expected().logp, 2))
    (alone,) = causes_of_two(rounded, noisy(expected(), 1e-6))
    (beside,) = causes_of_two(rounded, noisy(expected(), 0.3))
    assert alone.confidence == 0.95
    assert beside.confidence == 0.5
    assert "does not explain" in beside.why


def test_whole_numbers_on_a_coarse_grid_are_no_placeholders() -> None:
    rounded = with_logp(expected(), np.round(expected().logp, 1))  # one in ten is whole
    assert "sentinel-values" not in {id for id, _ in named(expected(), rounded)}


def test_rounding_of_some_rows_is_counted_and_no_placeholder() -> None:
    rounded = np.where(expected().rows.row_ids() < 3, np.round(expected().logp, 1), expected().logp)
    (cause,) = causes_of_two(noisy(expected(), 1e-6), with_logp(expected(), rounded))
    assert (cause.id, cause.side) == ("logprob-precision", "train")
    assert f"in 3 of {ROWS} rows" in cause.why
    assert cause.confidence == 0.95


def test_sure_tokens_are_no_placeholders_where_few_are_contradicted() -> None:
    # 100 of 360 tokens are sure: 0 on both sides, but for 10 (10 %) that the trainer thinks rare.
    sure = np.flatnonzero(expected().rows.sampled)[:100]
    logp = expected().logp.copy()
    logp[sure] = 0.0
    other = noisy(with_logp(expected(), logp), 1e-4).logp.copy()
    other[sure[:10]] = -2.5 + np.arange(10) / 7
    assert causes_of_two(with_logp(expected(), logp), with_logp(expected(), other)) == []


def test_both_sides_on_a_grid_are_told_of_both() -> None:
    one = with_logp(expected(), np.round(expected().logp, 2))
    other = with_logp(expected(), np.round(noisy(expected(), 0.1).logp, 2))
    assert named(one, other) == [("logprob-precision", "both")]


def test_large_captures_are_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looked_at(expected().rows).tolist() == list(range(ROWS))
    four = replace(THRESHOLDS, two_captures_tokens=31 * 4)  # rows, of 31 tokens each
    monkeypatch.setattr(two_captures, "THRESHOLDS", four)
    assert looked_at(expected().rows).tolist() == [0, 3, 7, 11]
    assert named(expected(), moved(noisy(expected(), 0.02), -1)) == [("shift-by-one", "both")]


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
