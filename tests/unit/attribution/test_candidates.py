"""The same cause, found twice.

Sign and spread of errors.
"""

from __future__ import annotations

import numpy as np
import pytest
from builders import NAN, a_suspect

from mismatch_lab.attribution.candidates import build_cause, joined, position_profile

ROUTER = "model.layers.0.mlp.router"


def test_two_ways_of_finding_a_cause_make_it_surer() -> None:
    seen = build_cause("router-precision", "train", 0.6, "Seen.", [], location=ROUTER)
    simulated = build_cause("router-precision", "train", 0.5, "Simulated.", [], location=ROUTER)
    other = build_cause("logit-scale", "train", 0.4, "", [])
    (one, two) = joined([seen, other, simulated])
    assert one.confidence == pytest.approx(0.8)  # 1 - 0.4 * 0.5
    assert one.why == "Seen. Simulated."
    assert two == other


def test_other_places_and_ties_stay_apart() -> None:
    here = build_cause("router-precision", "train", 0.6, "", [], location=ROUTER)
    there = build_cause("router-precision", "train", 0.6, "", [], location="model.layers.1")
    tied = build_cause("router-precision", "train", 0.6, "", [], location=ROUTER, decides="x")
    assert joined([here, there, tied]) == [here, there, tied]


def test_agreement_alone_is_never_certain_but_takes_nothing_away() -> None:
    sure = build_cause("norm-precision", "train", 0.98, "", [])
    again = build_cause("norm-precision", "train", 0.9, "", [])
    assert joined([sure, again])[0].confidence == 0.98
    assert joined([again, again])[0].confidence == 0.95


def test_sign_and_spread() -> None:
    # Ten errors: nine of -0.1 and one of +0.9, of which the worst tenth is half of 1.8.
    observed = np.array([NAN, *[-1.1] * 9, -0.1])
    values = [o.value for o in position_profile(a_suspect(observed, np.full(11, -1.0)))]
    assert values == pytest.approx([0.9, 0.5])


def test_without_a_number_nothing_is_said() -> None:
    suspect = a_suspect([-1.0], [-1.0])
    empty = a_suspect([-1.0, -1.0], [-1.0, -1.0])
    assert [o.value for o in position_profile(empty)] == [0.0, 0.0]
    assert len(position_profile(suspect)) == 2
    nothing = suspect.__class__("train", np.array([NAN]), np.array([-1.0]), NAN, 0.1)
    assert position_profile(nothing) == []
