"""A budget that is used up ends the search, not the diagnosis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mismatch_lab.attribution.explain import expected_with
from mismatch_lab.attribution.simulate import OutOfTimeError, Simulator
from mismatch_lab.attribution.suspects import Suspect
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.engines.jobs import ScoreJob

ROWS = Rows.build([[1, 2, 3]], [1], [[False, True, True]])


class Reference:
    """Says the same under every alteration."""

    def score(self, _job: ScoreJob) -> Capture:
        return Capture(ROWS, np.array([np.nan, -1.5, -2.0], np.float32))


SUSPECT = Suspect(
    name="decode",
    observed=np.array([np.nan, -1.0, -2.0]),
    expected=np.array([np.nan, -1.25, -2.0]),
    error_nats=0.125,
    noise_nats=1e-6,
)


def test_without_a_budget_nothing_is_scored() -> None:
    with pytest.raises(OutOfTimeError):
        Simulator(Reference(), 1.0, 10, budget_s=-1.0).score(())


def test_a_suspect_stands_as_it_is_where_the_budget_ended() -> None:
    assert (
        expected_with(Simulator(Reference(), 1.0, 10, budget_s=-1.0), (), SUSPECT, 1.0) is SUSPECT
    )


def test_with_a_budget_it_is_held_against_the_reference() -> None:
    found = expected_with(Simulator(Reference(), 1.0, 10), (), SUSPECT, 1.0)
    # |-1.0 + 1.5| and |-2.0 + 2.0|: a mean of 0.25 over the two sampled tokens.
    assert found.error_nats == pytest.approx(0.25)
    assert replace(found, expected=SUSPECT.expected, error_nats=SUSPECT.error_nats) == SUSPECT
