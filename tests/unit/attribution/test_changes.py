"""What becomes of log-probs on their way, on rows of three and two tokens.

Every change to whole distributions, on a vocabulary of three or four tokens.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import NAN, rows_of

from mismatch_lab.attribution.changes import (
    ROW_CHANGES,
    TOKEN_CHANGES,
    Distributions,
    change_rows,
    distributions_of,
)
from mismatch_lab.attribution.hypotheses import RowChange
from mismatch_lab.captures.capture import Capture, Rows

ROWS = rows_of(3, 2)
LOGP = np.array([NAN, -1.0, -2.0, NAN, -3.0])


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (1.0, [-1.0, -2.0, NAN, -3.0, NAN]),
        (-1.0, [NAN, NAN, -1.0, NAN, NAN]),
        (2.0, [-2.0, NAN, NAN, NAN, NAN]),
    ],
)
def test_a_shift_stays_within_its_row(value: float, arrives: list[float]) -> None:
    np.testing.assert_array_equal(TOKEN_CHANGES["shift"](LOGP, ROWS, value), arrives)


@pytest.mark.parametrize(
    ("name", "value", "arrives"),
    [
        # Between 1 and 2 bfloat16 has steps of 1/128 = 0.0078125, float16 of 1/1024.
        ("through_bfloat16", 0.0, -1.0078125),
        ("through_float16", 0.0, -1.0048828125),
        ("decimals", 1.0, -1.0),
        ("decimals", 3.0, -1.005),
    ],
)
def test_rounding(name: str, value: float, arrives: float) -> None:
    logp = np.array([NAN, -1.005, -2.0, NAN, -3.0])
    np.testing.assert_array_equal(
        TOKEN_CHANGES[name](logp, ROWS, value), [NAN, arrives, -2.0, NAN, -3.0]
    )


def given(probabilities: list[float], lse: float = NAN) -> Distributions:
    """One distribution at temperature 1."""
    return Distributions(
        np.log([probabilities]), np.array([lse]), [np.array([0])], np.array([1]), 1.0
    )


def of_logits(logits: list[float], temperature: float, seen: list[int]) -> Distributions:
    """As a head and a temperature give it; the first token seen is the prompt."""
    scaled = np.array([logits]) / temperature
    lse = np.log(np.exp(scaled).sum(axis=1))
    return Distributions(scaled - lse, lse, [np.array(seen)], np.array([1]), temperature)


def changed(name: str, sound: Distributions, value: float = 0.0) -> list[float]:
    """The probabilities that are reported."""
    row: list[float] = np.exp(ROW_CHANGES[name](sound, value))[0].tolist()
    return row


def softmax(*logits: float) -> object:
    weights = np.exp(logits)
    return pytest.approx((weights / weights.sum()).tolist())


FALLING = given([0.5, 0.25, 0.125, 0.125])
LOGITS = (2.0, -1.0, 1.0)


@pytest.mark.parametrize(
    ("name", "value", "left"),
    [
        ("top_p", 0.4, [1, 0, 0, 0]),
        ("top_p", 0.7, [2 / 3, 1 / 3, 0, 0]),  # 0.5 does not reach 0.7, 0.75 does
        ("top_p", 0.8, [4 / 7, 2 / 7, 1 / 7, 0]),  # of two alike the first is kept
        ("top_p", 1.0, [0.5, 0.25, 0.125, 0.125]),
        ("top_k", 1, [1, 0, 0, 0]),
        ("top_k", 2, [2 / 3, 1 / 3, 0, 0]),
        ("top_k", 3, [0.5, 0.25, 0.125, 0.125]),  # both that tie for the third place
        ("top_k", 100, [0.5, 0.25, 0.125, 0.125]),  # there are four tokens
        ("min_p", 0.4, [2 / 3, 1 / 3, 0, 0]),  # 0.4 of 0.5 is 0.2
        ("min_p", 0.1, [0.5, 0.25, 0.125, 0.125]),
        # Squares 1/4, 1/16, 1/64, 1/64 sum to 22/64.
        ("scale", 2.0, [16 / 22, 4 / 22, 1 / 22, 1 / 22]),
        ("scale", 0.0, [0.25, 0.25, 0.25, 0.25]),
    ],
)
def test_worked_examples(name: str, value: float, left: list[float]) -> None:
    assert changed(name, FALLING, value) == pytest.approx(left)


def test_tokens_are_kept_wherever_they_stand() -> None:
    assert changed("top_p", given([0.125, 0.5, 0.125, 0.25]), 0.7) == pytest.approx(
        [0, 2 / 3, 0, 1 / 3]
    )


def test_the_temperature_left_out() -> None:
    sound = of_logits([2.0, -1.0, 1.0], 2.0, [0])
    assert changed("raw_temperature", sound) == softmax(*LOGITS)
    # Dividing log-probs by 2 takes roots of probabilities, which sum to more than one.
    raw = np.exp(LOGITS) / np.exp(LOGITS).sum()
    roots = changed("temperature_on_logprobs", sound)
    assert roots == pytest.approx(np.sqrt(raw).tolist())
    assert sum(roots) > 1.1


def test_a_repetition_penalty_divides_or_multiplies_what_was_seen() -> None:
    # Tokens 0 (in the prompt) and 1 were seen: 2 / 2 = 1 and -1 * 2 = -2; all over temperature 2.
    sound = of_logits([2.0, -1.0, 1.0], 2.0, [0, 1, 1])
    assert changed("repetition_penalty", sound, 2.0) == softmax(0.5, -1.0, 0.5)


def test_presence_and_frequency_count_what_was_generated() -> None:
    # Token 2 is of the prompt and stays; token 0 was generated twice: 2 - 1 = 1, or 2 - 2 = 0.
    sound = of_logits([2.0, -1.0, 1.0], 2.0, [2, 0, 0])
    assert changed("presence_penalty", sound, 1.0) == softmax(0.5, -0.5, 0.5)
    assert changed("frequency_penalty", sound, 1.0) == softmax(0.0, -0.5, 0.5)


def test_penalties_leave_the_sound_distribution_as_it_is() -> None:
    sound = of_logits([2.0, -1.0, 1.0], 2.0, [0, 1, 2])
    before = sound.logp.copy()
    for name in ROW_CHANGES:
        ROW_CHANGES[name](sound, 0.9)
        np.testing.assert_array_equal(sound.logp, before, name)


def test_a_softcap_bends_logits_before_the_temperature() -> None:
    sound = of_logits([2.0, -1.0, 1.0], 2.0, [0])
    # 2 tanh(x / 2) is 1.5232, -0.9242, 0.9242 at 2, -1, 1.
    assert changed("softcap", sound, 2.0) == pytest.approx(
        (np.exp([0.76159, -0.46212, 0.46212]) / np.exp([0.76159, -0.46212, 0.46212]).sum()), 1e-4
    )


def test_phantom_rows_take_probability() -> None:
    # Logits ln 2, 0, 0 sum to 4 in the exponent; four more zeros double that.
    sound = of_logits([np.log(2), 0.0, 0.0], 1.0, [0])
    assert changed("phantom_rows", sound, 4.0) == pytest.approx([0.25, 0.125, 0.125])


def test_a_log_softmax_in_bfloat16() -> None:
    # 1.003 is 1 in bfloat16; the normaliser of (0, -1) is 0.3133, between 0.3125 and 0.3145.
    sound = of_logits([1.003, 0.0], 1.0, [0])
    assert ROW_CHANGES["bfloat16_log_softmax"](sound, 0.0)[0].tolist() == [-0.3125, -1.3125]


def test_an_unknown_normaliser_gives_no_numbers_where_one_is_needed() -> None:
    needs = {"softcap", "repetition_penalty", "phantom_rows", "bfloat16_log_softmax"}
    found = {
        name: np.isnan(change(given([0.5, 0.25, 0.25]), 0.9)).all()
        for name, change in ROW_CHANGES.items()
    }
    assert {name for name, unknown in found.items() if unknown} == needs


def test_distributions_of_a_capture() -> None:
    rows = rows_of(3, 3)  # token ids 0, 1, 2 and 3, 4, 5
    capture = Capture(
        rows,
        np.full(6, -1.0, np.float32),
        np.array([1, 5]),
        np.log(np.array([[0.5, 0.5], [0.25, 0.75]], np.float32)),
        probe_lse=np.array([2.0, 3.0], np.float32),
    )
    found = distributions_of(capture, np.array([1]), 0.5)
    assert [seen.tolist() for seen in found.seen] == [[3, 4]]
    assert found.generated_from.tolist() == [1]  # the prompt
    assert np.exp(found.logp) == pytest.approx(np.array([[0.25, 0.75]]))
    # (ln 0.25 + 3) * 0.5 and (ln 0.75 + 3) * 0.5
    assert found.logits == pytest.approx(np.array([[0.80685, 1.35616]]), abs=1e-5)


def test_a_later_turn_has_all_before_it_as_its_prompt() -> None:
    """Turns [2 3], user [4], [5 6]: vLLM's request for the second answer begins at token 5."""
    rows = Rows.build([[0, 2, 3, 4, 5, 6]], [1], [[False, True, True, False, True, True]])
    flat, lse = np.full((2, 8), -np.log(8.0), np.float32), np.full(2, np.log(8.0), np.float32)
    logp = np.full(6, -1.0, np.float32)
    capture = Capture(rows, logp, np.array([2, 5]), flat, probe_lse=lse)
    found = distributions_of(capture, np.array([0, 1]), 1.0)
    # Before token 3 the answer is [2], before token 6 it is [5]: not [3 4 5], nor [2 3 4 5].
    assert [ids.tolist() for ids, _ in found.generated_counts] == [[2], [5]]
    assert [ids.tolist() for ids in found.seen_tokens] == [[0, 2], [0, 2, 3, 4, 5]]
    # Logits of 0: a penalty of ln 2 halves token 5, 7.5 are left of 8.
    penalised = np.exp(ROW_CHANGES["presence_penalty"](found, np.log(2)))[1]
    assert penalised == pytest.approx(np.array([1, 1, 1, 1, 1, 0.5, 1, 1]) / 7.5)


def test_tokens_that_are_never_drawn_though_often_expected() -> None:
    """Four distributions [1/2, 1/4, 1/4]: token 0 is expected twice, the others once each."""
    sound = Distributions(
        np.log(np.tile([0.5, 0.25, 0.25], (4, 1))), np.full(4, NAN), [np.array([0])] * 4,
        np.ones(4, np.int64), 1.0, drawn=np.array([1, 1, 2, 1]),
    )  # fmt: skip
    assert changed("never_drawn", sound, 2.0) == pytest.approx([0, 0.5, 0.5])
    assert changed("never_drawn", sound, 2.1) == pytest.approx([0.5, 0.25, 0.25])


@pytest.mark.parametrize(
    ("name", "ids", "left"),
    [
        # 0.75 of the mass is counted: everything is 4/3 as likely.
        ("uncounted", ((2, 4),), [2 / 3, 1 / 3, 1 / 6, 1 / 6]),
        ("uncounted", ((0, 1), (2, 4)), [2.0, 1.0, 0.5, 0.5]),  # a quarter is: the first is above 1
        ("uncounted", ((4, 8),), [0.5, 0.25, 0.125, 0.125]),  # a shard of padding alone
        ("masked", ((0, 1),), [0, 0.5, 0.25, 0.25]),
    ],
)
def test_entries_left_out(name: str, ids: tuple[tuple[int, int], ...], left: list[float]) -> None:
    found = np.exp(change_rows(FALLING, RowChange(name, choices=(ids,))))[0]
    assert found.tolist() == pytest.approx(left)


def test_every_shard_by_itself() -> None:
    # 0.5 and 0.25 of 0.75; 0.125 and 0.125 of 0.25.
    assert changed("own_shard", FALLING, 2.0) == pytest.approx([2 / 3, 1 / 3, 0.5, 0.5])


def test_a_small_mass_is_summed_not_subtracted() -> None:
    found = change_rows(given([1.0, 1e-12]), RowChange("uncounted", choices=(((0, 1),),)))
    assert found[0, 1] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(
    ("drawn", "left"),
    [
        (0, [0.5, 0.25, 0.125, 0.125]),  # the likeliest was drawn: nothing to see
        (2, [0.5, 0.25, 0.5, 0.125]),  # its log-prob stands beside another's id
    ],
)
def test_the_likeliest_in_place_of_the_drawn_one(drawn: int, left: list[float]) -> None:
    expected = replace(FALLING, drawn=np.array([drawn]))
    assert changed("likeliest", expected) == pytest.approx(left)
