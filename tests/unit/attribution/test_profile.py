"""Sign and spread of errors."""

from __future__ import annotations

import numpy as np
import pytest
from builders import NAN, a_charge

from mismatch_lab.attribution.profile import position_profile


def test_sign_and_spread() -> None:
    # Ten errors: nine of -0.1 and one of +0.9, of which the worst tenth is half of 1.8.
    observed = np.array([NAN, *[-1.1] * 9, -0.1])
    values = [o.value for o in position_profile(a_charge(observed, np.full(11, -1.0)))]
    assert values == pytest.approx([0.9, 0.5])


def test_without_a_number_nothing_is_said() -> None:
    charge = a_charge([-1.0], [-1.0])
    empty = a_charge([-1.0, -1.0], [-1.0, -1.0])
    assert [o.value for o in position_profile(empty)] == [0.0, 0.0]
    assert len(position_profile(charge)) == 2
    nothing = charge.__class__("train", np.array([NAN]), np.array([-1.0]), NAN, 0.1)
    assert position_profile(nothing) == []
