"""A free number is found: on the grid, between its values, to the last digit, in whole numbers."""

from __future__ import annotations

from math import log

import pytest
from builders import a_fit, altered_by, searched

from mismatch_lab.attribution.fit import Fit
from mismatch_lab.attribution.hypotheses import Explanation
from mismatch_lab.attribution.tune import STEPS, tuned


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
    assert len(judge.tried) == len(set(judge.tried)) == 4 + STEPS + 1


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
