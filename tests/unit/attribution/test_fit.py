"""How much of an error an explanation takes away: two rows of two tokens, sound at -1 nat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import NAN, a_fit, altered_by

from mismatch_lab.attribution.fit import Fit, Unseen, fit, on_unseen_rows
from mismatch_lab.attribution.hypotheses import Hypothesis, TokenChange
from mismatch_lab.attribution.simulate import Prediction

SOUND = np.full(4, -1.0)
ROW_OF = np.array([0, 0, 1, 1])
CHANGED = altered_by("x")
TOKENS = Hypothesis("c", "", tokens=(TokenChange("shift"),))


def fitted(expected: list[float], seen: list[float], what: Hypothesis = CHANGED) -> Fit:
    """Of a predicted and an observed change, in nats."""
    found = fit(
        (what,), Prediction(np.arange(4), SOUND + expected), SOUND, SOUND + seen, ROW_OF, 0.01
    )
    assert found is not None
    return found


def test_the_very_change_explains_all() -> None:
    found = fitted([0.1, 0.2, -0.1, 0.4], [0.1, 0.2, -0.1, 0.4])
    assert (found.n, found.extent, found.fitted) == (4, "", 0)
    assert found.sound_nats == pytest.approx(0.2)  # (0.1 + 0.2 + 0.1 + 0.4) / 4
    assert found.residual_nats == pytest.approx(0)
    assert (found.slope, found.shared, found.explained) == pytest.approx((1, 1, 1))


def test_half_of_the_change_is_there_at_half_its_size() -> None:
    found = fitted([0.2, 0.4, -0.2, 0.4], [0.1, 0.2, -0.1, 0.2])
    assert found.extent == "at 0.5 of its size"
    assert found.fitted == 1
    assert (found.slope, found.shared, found.explained) == pytest.approx((0.5, 1, 1))


@pytest.mark.parametrize("size", [0.95, 1.5])
def test_a_change_of_nearly_its_size_or_a_larger_one_is_taken_as_it_is(size: float) -> None:
    expected = [0.2, 0.4, -0.2, 0.4]
    found = fitted(expected, [size * change for change in expected])
    assert (found.extent, found.fitted) == ("", 0)
    assert found.slope == pytest.approx(size)
    assert found.residual_nats == pytest.approx(abs(size - 1) * 0.3)


def test_the_opposite_change_doubles_the_error() -> None:
    found = fitted([0.1, 0.2, 0.1, 0.2], [-0.1, -0.2, -0.1, -0.2])
    assert found.extent == ""
    assert (found.slope, found.shared, found.explained) == pytest.approx((-1, 1, -1))


def test_an_unrelated_change_shares_nothing() -> None:
    # 0.1 - 0.1 + 0.1 - 0.1 = 0 is shared; what is left is 0, 0.2, 0, 0.2.
    found = fitted([0.1, -0.1, 0.1, -0.1], [0.1, 0.1, 0.1, 0.1])
    assert (found.slope, found.shared, found.explained) == pytest.approx((0, 0, 0))
    assert found.residual_nats == pytest.approx(0.1)


def test_no_predicted_change_is_no_explanation() -> None:
    found = fitted([0, 0, 0, 0], [0.1, 0.1, 0.1, 0.1])
    assert (found.slope, found.shared, found.explained) == (0, 0, 0)


def test_a_change_of_tokens_may_be_there_in_some_rows() -> None:
    found = fitted([0.2, 0.4, 0.2, 0.4], [0.2, 0.4, 0, 0], TOKENS)
    assert found.extent == "in 1 of 2 rows"
    assert found.fitted == 1
    assert found.residual_nats == pytest.approx(0)
    assert found.slope == pytest.approx(1)
    # A change to the model is there in all rows: 0.15 nats of 0.15 are left.
    assert fitted([0.2, 0.4, 0.2, 0.4], [0.2, 0.4, 0, 0]).explained == pytest.approx(0)


def in_two_rows(expected: list[float], seen: list[float], noise_nats: float) -> Fit:
    """Of tokens in a row of three and a row of one."""
    found = fit(
        (TOKENS,), Prediction(np.arange(4), SOUND + expected), SOUND, SOUND + seen,
        np.array([0, 0, 0, 1]), noise_nats,
    )  # fmt: skip
    assert found is not None
    return found


def test_of_two_ways_to_be_there_in_part_the_better_one_is_taken() -> None:
    # Slope (3 * 0.04 + 0.16) / 0.64 = 0.4375: 0.1125 nats are left at that size of 0.225 at full
    # size; with a change in the second row only, three times 0.1 is left.
    found = in_two_rows([0.4] * 4, [0.1, 0.1, 0.1, 0.4], noise_nats=0.2)
    assert found.extent == "in 1 of 2 rows"
    assert found.residual_nats == pytest.approx(0.075)


def test_a_row_is_left_out_only_where_that_helps_much() -> None:
    # 0.11 / 4 nats are left of the whole change, 0.09 / 4 without the second row: 82 % of it.
    found = in_two_rows([0.2] * 4, [0.2, 0.2, 0.2, 0.09], noise_nats=0.1)
    assert found.extent == ""
    assert found.residual_nats == pytest.approx(0.0275)


def test_numbers_that_are_none_are_left_out() -> None:
    prediction = Prediction(np.array([1, 2, 3]), np.array([-0.9, NAN, -0.8]))
    observed = np.array([-5.0, -0.9, -0.9, -0.8])
    found = fit((CHANGED,), prediction, SOUND, observed, ROW_OF, 0.01)
    assert found is not None
    assert found.n == 2  # tokens 1 and 3; nothing is predicted of token 0
    assert found.sound_nats == pytest.approx(0.15)
    nowhere = Prediction(np.array([1]), np.array([NAN]))
    assert fit((CHANGED,), nowhere, SOUND, observed, ROW_OF, 0.01) is None


def test_of_no_error_nothing_can_be_explained() -> None:
    assert fitted([0.1, 0.1, 0.1, 0.1], [0, 0, 0, 0]).explained == 0.0


def test_numbers_fitted_are_counted() -> None:
    two = (altered_by("x", fitted=2), altered_by("y", fitted=1))
    assert a_fit(two, 0.1).fitted == 3
    assert a_fit(two, 0.1, extent="at 0.5 of its size").fitted == 4


def unseen(found: Fit, expected: list[float], seen: list[float]) -> Unseen | None:
    prediction = Prediction(np.arange(4), SOUND + expected)
    return on_unseen_rows(found, prediction, SOUND, SOUND + seen, ROW_OF, first_row=1)


def test_rows_that_were_not_looked_at_speak_for_themselves() -> None:
    found = a_fit((CHANGED,), 0.0)
    # Row 1 was off by 0 and 0.1 nats, and is off by 0.3 each from what was predicted.
    assert unseen(found, [0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.0, 0.1]) == Unseen(
        1, pytest.approx(0.05), pytest.approx(0.3)
    )


def test_the_size_that_was_found_is_kept_for_them() -> None:
    found = fitted([0.2, 0.4, -0.2, 0.4], [0.1, 0.2, -0.1, 0.2])
    assert found.size == pytest.approx(0.5)
    # At half its size 0.1 is left of 0.3, and nothing of -0.2.
    assert unseen(found, [0, 0, 0.4, -0.4], [0, 0, 0.3, -0.2]) == Unseen(
        1, pytest.approx(0.25), pytest.approx(0.05)
    )


def test_there_may_be_none_to_ask() -> None:
    found = fitted([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4])
    prediction = Prediction(np.arange(2), SOUND[:2])
    assert on_unseen_rows(found, prediction, SOUND, SOUND, ROW_OF, first_row=1) is None
    picked = replace(found, extent="in 1 of 2 rows")
    assert unseen(picked, [0, 0, 0, 0], [0, 0, 0, 0]) is None
