"""What a difference that goes one way may be: hand-made distributions, drawn from and cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mismatch_lab.attribution.one_sided import one_sided_causes
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.schema import Sampling

ROWS, ANSWER = 16, 40


def rows() -> Rows:
    return Rows.build(
        [list(range(ANSWER + 1))] * ROWS, [1] * ROWS, [[False] + [True] * ANSWER] * ROWS
    )


def sides(infer: np.ndarray, train: np.ndarray) -> tuple[Capture, Capture]:
    """Captures of the probabilities [ROWS, ANSWER] that either side gives the sampled tokens."""
    found = []
    for probabilities in (infer, train):
        logp = np.full((ROWS, ANSWER + 1), np.nan)
        logp[:, 1:] = np.log(probabilities)
        found.append(Capture(rows(), logp.ravel().astype(np.float32)))
    return found[0], found[1]


def cut(mass: tuple[float, float]) -> tuple[Capture, Capture]:
    """The engine's probabilities are the trainer's over the kept mass, which is between the two."""
    rng = np.random.default_rng(0)
    kept = rng.uniform(*mass, (ROWS, ANSWER))
    train = rng.uniform(0.05, 0.95, (ROWS, ANSWER)) * kept
    return sides(train / kept, train)


def test_a_cut_support_is_possible_and_never_sure() -> None:
    causes = one_sided_causes(*cut((0.9, 1.0)), Sampling(top_p=0.9))
    assert [c.id for c in causes] == ["sampler-truncation", "partial-normaliser"]
    assert {c.confidence for c in causes} == {0.3}
    assert all(c.decides for c in causes)
    ratio, other_way, lowest = causes[0].evidence
    assert ratio.value == pytest.approx(0.95, abs=0.005)  # the mean kept mass
    assert other_way.value == 0.0
    assert lowest.value >= np.log(0.9) - 1e-6
    assert lowest.expected.startswith("-0.105 or more")


def test_another_candidate_is_possible_where_both_probabilities_fit_into_one() -> None:
    rng = np.random.default_rng(1)
    largest = rng.uniform(0.5, 0.9, (ROWS, ANSWER))
    likeliest = rng.random((ROWS, ANSWER)) < 0.7
    train = np.where(likeliest, largest, (1 - largest) * rng.uniform(0.1, 1, (ROWS, ANSWER)))
    causes = one_sided_causes(*sides(largest, train))
    assert "wrong-candidate" in [c.id for c in causes]
    assert {c.confidence for c in causes} == {0.3}


def test_two_whole_distributions_are_none_of_these() -> None:
    """Two tokens, the engine at 0.5 and the trainer at 0.25 or 0.75: ratios of 0.5 and 1.5."""
    drawn = np.arange(ROWS * ANSWER).reshape(ROWS, ANSWER) % 2
    train = np.where(drawn == 0, 0.25, 0.75)
    assert one_sided_causes(*sides(np.full((ROWS, ANSWER), 0.5), train)) == []


def test_rounding_and_nothing_at_all_are_none_of_these() -> None:
    infer, _ = cut((0.9, 1.0))
    noise = np.random.default_rng(2).normal(0, 0.01, infer.logp.shape)
    assert one_sided_causes(infer, replace(infer, logp=(infer.logp + noise).astype("f4"))) == []
    assert one_sided_causes(infer, infer) == []


def test_an_engine_that_is_lower_is_none_of_these() -> None:
    infer, train = cut((0.9, 1.0))
    assert one_sided_causes(train, infer) == []
