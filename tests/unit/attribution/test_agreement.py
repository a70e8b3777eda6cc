"""The same cause, found twice."""

import pytest

from mismatch_lab.attribution.agreement import joined
from mismatch_lab.attribution.build_cause import build_cause

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
