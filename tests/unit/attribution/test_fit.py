"""How much of an error an explanation takes away: two rows of two tokens, sound at -1 nat."""

from __future__ import annotations

import numpy as np
import pytest
from builders import NAN, a_fit, altered_by

from mismatch_lab.attribution.fit import Fit, fit
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
