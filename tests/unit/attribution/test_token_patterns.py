"""Tokens that are wrong by themselves: 10 rows of a prompt token and four sampled ones.

Tokens read as others, by the first layer's input: two rows of three tokens, all tapped.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import NAN, answered, rows_of

from mismatch_lab.attribution.changes import Float64
from mismatch_lab.attribution.token_patterns import (
    FIRST_INPUT,
    TokenPattern,
    misread_tokens,
    token_patterns,
)
from mismatch_lab.captures.capture import Capture

ROWS = rows_of(*[5] * 10)
LAST = ROWS.row_offsets[1:] - 1
NOISE = 1e-3
"""A token is wrong by itself from 0.02 nats on."""


def expected() -> Float64:
    """-0.501, -0.511, …: none whole, no two alike."""
    logp = -np.linspace(0.501, 0.991, 50)
    logp[ROWS.row_offsets[:-1]] = np.nan
    return logp


def patterns(observed: Float64) -> list[TokenPattern]:
    return token_patterns(observed, expected(), ROWS, NOISE)


def test_a_sound_side_has_none() -> None:
    assert patterns(expected()) == []
    assert patterns(expected() + 10 * NOISE) == []


def test_one_whole_number_twice_is_a_sentinel() -> None:
    observed = expected()
    observed[[1, 7]] = -1.0
    (found,) = patterns(observed)
    assert (found.cause, found.value) == ("sentinel-values", -1.0)
    assert np.flatnonzero(found.tokens).tolist() == [1, 7]
    # |-1 + 0.511| = 0.489 and |-1 + 0.571| = 0.429.
    assert found.abs_delta_nats == pytest.approx(0.459)


@pytest.mark.parametrize(("value", "found"), [(-100.0, 1), (1.0, 1), (-1.0, 0), (-60.25, 0)])
def test_once_is_enough_where_no_log_prob_can_be(value: float, found: int) -> None:
    observed = expected()
    observed[3] = value
    assert len(patterns(observed)) == found


def test_the_same_at_the_end_of_rows_is_the_terminal_token() -> None:
    observed = expected()
    observed[LAST] = 0.0
    (found,) = patterns(observed)
    assert (found.cause, found.value, int(found.tokens.sum())) == ("terminal-token", 0.0, 10)


def test_another_number_takes_three_and_a_fifth_of_the_wrong_ones() -> None:
    observed = expected()
    observed[[1, 7]] = -2.5
    assert patterns(observed) == []
    observed[13] = -2.5
    (found,) = patterns(observed)
    assert (found.cause, found.value) == ("sentinel-values", -2.5)
    observed[20:] -= 0.3  # with 24 others it is 3 of 27
    assert patterns(observed) == []


def test_zero_in_the_middle_of_a_row_is_a_record_that_is_missing() -> None:
    observed = expected()
    observed[[1, 7, 48]] = 0.0
    (found,) = patterns(observed)
    assert (found.cause, found.value) == ("missing-logprobs", 0.0)


@pytest.mark.parametrize(("tokens", "found"), [(16, []), (7, ["missing-logprobs"])])
def test_what_a_cut_keeps_alone_is_no_fill(tokens: int, found: list[str]) -> None:
    """All tokens from -0.501 to -0.691 nats (probability 0.5) are 0: kept alone. Of a fill that
    reaches as far, most of the tokens that are as likely are not 0.
    """
    observed = expected()
    likely = np.flatnonzero(ROWS.sampled)[:16]
    observed[np.append(likely[: tokens - 1], likely[-1])] = 0.0
    assert expected()[likely[-1]] > -0.7
    assert [p.cause for p in patterns(observed)] == found


def test_several_constants_are_several_patterns() -> None:
    observed = expected()
    observed[[1, 2, 3]] = -30.0
    observed[LAST] = 0.0
    found = patterns(observed)
    assert [(p.cause, p.value) for p in found] == [
        ("sentinel-values", -30.0), ("terminal-token", 0.0),
    ]  # fmt: skip


def test_wrong_values_at_the_end_of_rows_only_are_of_packing() -> None:
    observed = expected()
    observed[LAST[:3]] -= [0.3, 0.6, 0.9]
    (found,) = patterns(observed)
    assert found.cause == "packing-boundary"
    assert np.isnan(found.value)
    assert np.flatnonzero(found.tokens).tolist() == LAST[:3].tolist()
    assert found.abs_delta_nats == pytest.approx(0.6)


def test_two_ends_or_an_error_elsewhere_are_not() -> None:
    observed = expected()
    observed[LAST[:2]] -= [0.3, 0.6]
    assert patterns(observed) == []
    observed[LAST[2]] -= 0.9
    inside = observed.copy()
    inside[1] -= 0.3
    assert patterns(inside) == []
    # 0.005 on every other token is no noise of 0.001, though no token is wrong by itself.
    everywhere = observed - 0.005
    assert patterns(everywhere) == []


def test_some_tokens_with_the_log_prob_of_their_neighbour() -> None:
    # Neighbours differ by 0.01 nats, less than what makes a token wrong: spread them out.
    right = expected() * 20
    observed = right.copy()
    firsts = np.array([3, 8, 13, 18])
    observed[firsts] = right[firsts - 1]
    (found,) = token_patterns(observed, right, ROWS, NOISE)
    assert found.cause == "shift-by-one"
    assert np.flatnonzero(found.tokens).tolist() == firsts.tolist()
    everywhere = np.roll(right, 1)
    assert [p.cause for p in token_patterns(everywhere, right, ROWS, NOISE)] == []


GIVEN = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]


def tapped(inputs: list[list[float]]) -> Capture:
    """Inputs at flat positions 0, 1, 3 and 4: those that tokens 1, 2, 4 and 5 came from."""
    base = answered([-1.0, -1.0], [-1.0, -1.0])
    return replace(
        base,
        probe_positions=np.array([1, 2, 4, 5]),
        hidden={FIRST_INPUT: np.array(inputs, np.float32)},
    )


REFERENCE = tapped(GIVEN)


def test_rounding_is_no_misreading() -> None:
    assert misread_tokens(tapped([[1.05, 0.0], *GIVEN[1:]]), REFERENCE) is None


def test_a_prompt_token_read_as_another() -> None:
    found = misread_tokens(tapped([GIVEN[0], GIVEN[1], [0.0, 1.0], GIVEN[3]]), REFERENCE)
    assert found is not None
    assert (found.flat.tolist(), found.in_prompt, found.seen) == ([3], 1.0, 4)


def test_prompt_and_answer() -> None:
    found = misread_tokens(tapped([[0.0, 1.0], [1.0, 0.0], *GIVEN[2:]]), REFERENCE)
    assert found is not None
    assert (found.flat.tolist(), found.in_prompt) == ([0, 1], 0.5)


def test_all_of_them_wrong_is_another_embedding() -> None:
    assert misread_tokens(tapped([[-a, -b] for a, b in GIVEN]), REFERENCE) is None


def test_positions_without_a_hidden_state_are_not_seen() -> None:
    found = misread_tokens(tapped([[0.0, 1.0], [NAN, NAN], *GIVEN[2:]]), REFERENCE)
    assert found is not None
    assert found.seen == 3
    assert found.in_prompt == pytest.approx(1.0)


def test_nothing_can_be_said_without_taps() -> None:
    assert misread_tokens(answered([-1.0]), REFERENCE) is None
    assert misread_tokens(REFERENCE, answered([-1.0])) is None
