"""A budget that is used up ends the search, not the diagnosis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mismatch_lab.attribution.investigate import sound_in
from mismatch_lab.attribution.lab import Lab, OutOfTimeError
from mismatch_lab.attribution.suspects import Charge
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.engines.jobs import ScoreJob

ROWS = Rows.build([[1, 2, 3]], [1], [[False, True, True]])


class Reference:
    """Says the same under every alteration."""

    def score(self, _job: ScoreJob) -> Capture:
        return Capture(ROWS, np.array([np.nan, -1.5, -2.0], np.float32))


CHARGE = Charge(
    suspect="decode",
    observed=np.array([np.nan, -1.0, -2.0]),
    sound=np.array([np.nan, -1.25, -2.0]),
    error_nats=0.125,
    noise_nats=1e-6,
)


def test_without_a_budget_nothing_is_scored() -> None:
    with pytest.raises(OutOfTimeError):
        Lab(Reference(), 1.0, 10, budget_s=-1.0).score(())


def test_a_charge_stands_as_it_is_where_the_budget_ended() -> None:
    assert sound_in(Lab(Reference(), 1.0, 10, budget_s=-1.0), (), CHARGE, 1.0) is CHARGE


def test_with_a_budget_it_is_held_against_the_reference() -> None:
    found = sound_in(Lab(Reference(), 1.0, 10), (), CHARGE, 1.0)
    # |-1.0 + 1.5| and |-2.0 + 2.0|: a mean of 0.25 over the two sampled tokens.
    assert found.error_nats == pytest.approx(0.25)
    assert replace(found, sound=CHARGE.sound, error_nats=CHARGE.error_nats) == CHARGE
