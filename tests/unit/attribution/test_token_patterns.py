"""Tokens that are wrong by themselves: 10 rows of a prompt token and four sampled ones."""

from __future__ import annotations

import numpy as np
import pytest
from builders import rows_of

from mismatch_lab.attribution.token_changes import Float64
from mismatch_lab.attribution.token_patterns import TokenPattern, token_patterns

ROWS = rows_of(*[5] * 10)
LAST = ROWS.row_offsets[1:] - 1
NOISE = 1e-3
"""A token is wrong by itself from 0.02 nats on."""


def sound() -> Float64:
    """-0.501, -0.511, …: none whole, no two alike."""
    logp = -np.linspace(0.501, 0.991, 50)
    logp[ROWS.row_offsets[:-1]] = np.nan
    return logp


def patterns(observed: Float64) -> list[TokenPattern]:
    return token_patterns(observed, sound(), ROWS, NOISE)


def test_a_sound_side_has_none() -> None:
    assert patterns(sound()) == []
    assert patterns(sound() + 10 * NOISE) == []


def test_one_whole_number_twice_is_a_sentinel() -> None:
    observed = sound()
    observed[[1, 7]] = -1.0
    (found,) = patterns(observed)
    assert (found.cause, found.value) == ("sentinel-values", -1.0)
    assert np.flatnonzero(found.tokens).tolist() == [1, 7]
    # |-1 + 0.511| = 0.489 and |-1 + 0.571| = 0.429.
    assert found.abs_delta_nats == pytest.approx(0.459)


@pytest.mark.parametrize(("value", "found"), [(-100.0, 1), (1.0, 1), (-1.0, 0), (-60.25, 0)])
def test_once_is_enough_where_no_log_prob_can_be(value: float, found: int) -> None:
    observed = sound()
    observed[3] = value
    assert len(patterns(observed)) == found


def test_the_same_at_the_end_of_rows_is_the_terminal_token() -> None:
    observed = sound()
    observed[LAST] = 0.0
    (found,) = patterns(observed)
    assert (found.cause, found.value, int(found.tokens.sum())) == ("terminal-token", 0.0, 10)


def test_another_number_takes_three_and_a_fifth_of_the_wrong_ones() -> None:
    observed = sound()
    observed[[1, 7]] = -2.5
    assert patterns(observed) == []
    observed[13] = -2.5
    (found,) = patterns(observed)
    assert (found.cause, found.value) == ("sentinel-values", -2.5)
    observed[20:] -= 0.3  # with 24 others it is 3 of 27
    assert patterns(observed) == []


def test_several_constants_are_several_patterns() -> None:
    observed = sound()
    observed[[1, 2, 3]] = -30.0
    observed[LAST] = 0.0
    found = patterns(observed)
    assert [(p.cause, p.value) for p in found] == [
        ("sentinel-values", -30.0), ("terminal-token", 0.0),
    ]  # fmt: skip


def test_wrong_values_at_the_end_of_rows_only_are_of_packing() -> None:
    observed = sound()
    observed[LAST[:3]] -= [0.3, 0.6, 0.9]
    (found,) = patterns(observed)
    assert found.cause == "packing-boundary"
    assert np.isnan(found.value)
    assert np.flatnonzero(found.tokens).tolist() == LAST[:3].tolist()
    assert found.abs_delta_nats == pytest.approx(0.6)


def test_two_ends_or_an_error_elsewhere_are_not() -> None:
    observed = sound()
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
    right = sound() * 20
    observed = right.copy()
    firsts = np.array([3, 8, 13, 18])
    observed[firsts] = right[firsts - 1]
    (found,) = token_patterns(observed, right, ROWS, NOISE)
    assert found.cause == "shift-by-one"
    assert np.flatnonzero(found.tokens).tolist() == firsts.tolist()
    everywhere = np.roll(right, 1)
    assert [p.cause for p in token_patterns(everywhere, right, ROWS, NOISE)] == []
