"""How much of an error an explanation takes away: two rows of two tokens, sound at -1 nat.

A free number is found: on the grid, between its values, to the last digit, in whole numbers.
"""

from __future__ import annotations

from dataclasses import replace
from math import log

import numpy as np
import pytest
from builders import NAN, a_fit, altered_by, searched

from mismatch_lab.attribution.fit import Fit, Unseen, fit, on_unseen_rows, tuned
from mismatch_lab.attribution.hypotheses import Explanation, Hypothesis, TokenChange
from mismatch_lab.attribution.simulate import Prediction
from mismatch_lab.attribution.thresholds import THRESHOLDS

EXPECTED = np.full(4, -1.0)
ROW_OF = np.array([0, 0, 1, 1])
CHANGED = altered_by("x")
TOKENS = Hypothesis("c", "", tokens=(TokenChange("shift"),))


def fitted(expected: list[float], seen: list[float], what: Hypothesis = CHANGED) -> Fit:
    """Of a predicted and an observed change, in nats."""
    found = fit(
        (what,),
        Prediction(np.arange(4), EXPECTED + expected),
        EXPECTED,
        EXPECTED + seen,
        ROW_OF,
        0.01,
    )
    assert found is not None
    return found


def test_the_very_change_explains_all() -> None:
    found = fitted([0.1, 0.2, -0.1, 0.4], [0.1, 0.2, -0.1, 0.4])
    assert (found.n, found.extent, found.fitted) == (4, "", 0)
    assert found.before_nats == pytest.approx(0.2)  # (0.1 + 0.2 + 0.1 + 0.4) / 4
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
        (TOKENS,), Prediction(np.arange(4), EXPECTED + expected), EXPECTED, EXPECTED + seen,
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
    found = fit((CHANGED,), prediction, EXPECTED, observed, ROW_OF, 0.01)
    assert found is not None
    assert found.n == 2  # tokens 1 and 3; nothing is predicted of token 0
    assert found.before_nats == pytest.approx(0.15)
    nowhere = Prediction(np.array([1]), np.array([NAN]))
    assert fit((CHANGED,), nowhere, EXPECTED, observed, ROW_OF, 0.01) is None


def test_of_no_error_nothing_can_be_explained() -> None:
    assert fitted([0.1, 0.1, 0.1, 0.1], [0, 0, 0, 0]).explained == 0.0


def test_numbers_fitted_are_counted() -> None:
    two = (altered_by("x", fitted=2), altered_by("y", fitted=1))
    assert a_fit(two, 0.1).fitted == 3
    assert a_fit(two, 0.1, extent="at 0.5 of its size").fitted == 4


def unseen(found: Fit, expected: list[float], seen: list[float]) -> Unseen | None:
    prediction = Prediction(np.arange(4), EXPECTED + expected)
    return on_unseen_rows(found, prediction, EXPECTED, EXPECTED + seen, ROW_OF, first_row=1)


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
    prediction = Prediction(np.arange(2), EXPECTED[:2])
    assert on_unseen_rows(found, prediction, EXPECTED, EXPECTED, ROW_OF, first_row=1) is None
    picked = replace(found, extent="in 1 of 2 rows")
    assert unseen(picked, [0, 0, 0, 0], [0, 0, 0, 0]) is None


class Judge:
    """Leaves |value - best| of an error of 1; inapplicable at some values."""

    def __init__(self, best: float, *, sloped: bool = False, shared: float = 1.0) -> None:
        self.best = best
        self.sloped = sloped
        self.shared = shared
        self.refused: set[float] = set()
        self.tried: list[float] = []

    def __call__(self, explanation: Explanation) -> Fit | None:
        value = explanation[-1].value
        assert isinstance(value, int | float)
        self.tried.append(value)
        if value in self.refused:
            return None
        slope = self.best / value if self.sloped else 0.0
        left = abs(value - self.best) if self.shared else 1.0
        return a_fit(explanation, left, slope=slope, shared=self.shared)


def value_of(found: Fit | None) -> float:
    assert found is not None
    value = found.explanation[-1].value
    assert isinstance(value, int | float)
    return value


def test_without_a_free_number_it_is_judged_once() -> None:
    seen: list[Explanation] = []
    before, plain = altered_by("x"), altered_by("y")

    def judge(explanation: Explanation) -> Fit:
        seen.append(explanation)
        return a_fit(explanation, 0.5)

    assert tuned(judge, (before,), plain) == a_fit((before, plain), 0.5)
    assert seen == [(before, plain)]


def test_on_a_grid_the_best_value_is_taken() -> None:
    judge = Judge(1.4)
    assert value_of(tuned(judge, (), searched("a", (0.5, 1.0, 2.0)))) == 1.0
    assert judge.tried == [0.5, 1.0, 2.0]


def test_values_that_do_not_apply_are_passed_over() -> None:
    judge = Judge(1.4)
    judge.refused = {1.0}
    assert value_of(tuned(judge, (), searched("a", (0.5, 1.0, 2.0)))) == 2.0
    judge.refused = {0.5, 1.0, 2.0}
    assert tuned(judge, (), searched("a", (0.5, 1.0, 2.0))) is None


@pytest.mark.parametrize("refine", ["linear", "log"])
def test_between_grid_values_by_golden_section(refine: str) -> None:
    judge = Judge(1.7)  # without a slope there is nothing for a secant
    found = value_of(tuned(judge, (), searched("a", (0.5, 1.0, 2.0, 4.0), refine)))
    # 1 to 4 shrinks by 0.618 seven times: to 3.4 %, 0.10 of 3, or 0.048 of ln 4.
    assert abs(found - 1.7) < 0.11
    assert refine == "linear" or abs(log(found / 1.7)) < 0.05
    # Two values in the first step and one in each further: nothing is judged twice.
    assert len(judge.tried) == len(set(judge.tried)) == 4 + THRESHOLDS.golden_steps + 1


def test_to_the_last_digit_by_secants() -> None:
    judge = Judge(1.7, sloped=True)
    found = value_of(tuned(judge, (), searched("a", (0.5, 1.0, 2.0, 4.0), "log")))
    assert found == pytest.approx(1.7, abs=1e-9)


def test_whole_numbers_are_searched_as_such() -> None:
    judge = Judge(37)
    found = value_of(tuned(judge, (), searched("a", (16.0, 32.0, 64.0, 128.0), "integer")))
    assert found == 37
    assert isinstance(found, int)
    assert len(judge.tried) < 30  # of the 49 between 16 and 64


def test_what_explains_and_shares_nothing_is_not_refined() -> None:
    judge = Judge(1.7, shared=0.0)
    assert tuned(judge, (), searched("a", (0.5, 1.0, 2.0), "log")) is not None
    assert judge.tried == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("refine", ["linear", "log", "integer"])
def test_a_single_value_that_applies_is_the_answer(refine: str) -> None:
    judge = Judge(1.0, sloped=True)
    judge.refused = {2.0, 4.0}
    assert value_of(tuned(judge, (), searched("a", (1.0, 2.0, 4.0), refine))) == pytest.approx(1.0)
    alone = Judge(1.5, sloped=True)
    assert value_of(tuned(alone, (), searched("a", (1.0,), refine))) == pytest.approx(1.0)


def test_a_number_may_be_negative() -> None:
    judge = Judge(-0.7)
    found = value_of(tuned(judge, (), searched("a", (-2.0, -1.0, -0.5, 0.5), "linear")))
    # From -2 or -1 to -0.5: 3.4 % of 1.5.
    assert abs(found + 0.7) < 0.06


REPLACED = replace(CHANGED, replaces=True)


@pytest.mark.parametrize(
    ("expected", "seen", "left", "extent"),
    # Noise is 0.01 nats: to 20 times as much a token carries what is predicted.
    [
        ([1.0, 2.0, 0.0, 4.0], [1.0, 2.1, 0.0, 4.0], 0.025, ""),
        # Half of them, and the others sound but for 0.05 nats.
        ([1.0, 2.0, 3.0, 4.0], [1.0, 0.05, 0.05, 4.0], 0.025, "in 2 of 4 tokens"),
        # All the same way, at a third of the size: none of them is one.
        ([1.0, 2.0, 3.0, 4.0], [0.3, 0.7, 1.0, 1.3], 0.825, "in 0 of 4 tokens"),
    ],
)
def test_what_replaces_a_number_is_there_or_it_is_not(
    expected: list[float], seen: list[float], left: float, extent: str
) -> None:
    found = fitted(expected, seen, REPLACED)
    assert found.residual_nats == pytest.approx(left)
    assert found.extent == extent
    assert found.explained == pytest.approx(1 - left / np.mean(np.abs(seen)))
    # Any other change of a third of the size explains nearly all.
    assert fitted([1.0, 2.0, 3.0, 4.0], [0.3, 0.7, 1.0, 1.3]).explained > 0.9
