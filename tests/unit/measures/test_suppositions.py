"""What drawn tokens gain under a supposition, and what would have been noticed."""

from __future__ import annotations

from math import exp, log, sqrt

import numpy as np
import pytest
from numpy.typing import NDArray

from mismatch_lab.measures.suppositions import (
    CERTAIN_NATS,
    CERTAIN_Z,
    EXPECTED,
    FAMILIES,
    NODES,
    OBSERVED,
    VARIANCE,
    likeliest,
    never_drawn,
    never_drawn_noticed,
    noticed,
    temperature_gains,
)


def of_coins(n: int) -> NDArray[np.float64]:
    """Normalisers of n tosses of a coin that shows heads with a probability of 3/4."""
    return np.array([n * log(0.75 ** (1 / t) + 0.25 ** (1 / t)) for t in NODES])


def at(family: str, value: float) -> int:
    return FAMILIES[family].values.index(value)


def test_the_error_rate_is_shared_by_z_and_eight_families() -> None:
    # 8 exp(-nats) = 5e-5, and 5e-5 beyond z on both sides of a normal distribution.
    assert 8 * exp(-CERTAIN_NATS) == pytest.approx(5e-5)
    assert pytest.approx(4.056, abs=1e-3) == CERTAIN_Z


def test_gains_of_a_temperature_by_hand() -> None:
    # At T = 1/2 probabilities are squared: 9/16 and 1/16, K = ln(10/16), q = 9/10 and 1/10.
    # Drawn: 800 heads of 1000, with 800 ln 3/4 + 200 ln 1/4.
    n, k = 1000, log(10 / 16)
    drawn = 800 * log(0.75) + 200 * log(0.25)
    gains = temperature_gains(of_coins(n), drawn)[:, at("temperature", 0.5)]
    assert gains[OBSERVED] == pytest.approx(drawn - n * k, abs=0.01)
    # Under q the log-prob ln p is 0.9 ln 3/4 + 0.1 ln 1/4 on average, its variance 0.09 ln(3)^2.
    mean = 0.9 * log(0.75) + 0.1 * log(0.25)
    assert gains[EXPECTED] == pytest.approx(n * (mean - k), rel=2e-3)
    assert gains[VARIANCE] == pytest.approx(n * 0.09 * log(3) ** 2, rel=0.02)


def test_the_likeliest_temperature_is_the_one_that_was_used() -> None:
    # (3/4)^(1/T) is 9/10 of the sum at T = 1/2, and 0.7943 of it at T = 0.813: 3^(1/T) = 3.862.
    n = 10_000
    for heads, temperature in ((9000, 0.5), (7943, 0.81), (7500, 1.01)):
        drawn = heads * log(0.75) + (n - heads) * log(0.25)
        found = likeliest("temperature", temperature_gains(of_coins(n), drawn))
        assert found.value == pytest.approx(temperature, abs=0.011)
    assert found.nats < 0.1, "drawn as reported"


def test_a_temperature_is_noticed_where_its_gain_is_sure_to_be_enough() -> None:
    # u = sqrt(N Var) |1 - 1/T| standard deviations gain u^2 / 2 on average, give or take u: enough
    # with 95 % where u^2 / 2 - 1.645 u = 12, u = 6.8. With Var = 3/16 ln(3)^2 that is, at N =
    # 10,000, |1 - 1/T| = 0.143 and about T = 0.875 and 1.167.
    n = 10_000
    gains = temperature_gains(of_coins(n), n * (0.75 * log(0.75) + 0.25 * log(0.25)))
    found = noticed("temperature", gains)
    assert found.below == pytest.approx(0.875, abs=0.015)
    assert found.above == pytest.approx(1.167, abs=0.025)
    few = noticed("temperature", temperature_gains(of_coins(10), -5.0))
    assert np.isnan([few.below, few.above]).all()


def test_an_edge_is_noticed_on_one_side_of_what_changes_nothing() -> None:
    gains = np.zeros((3, len(FAMILIES["top_k"].values)))
    gains[EXPECTED, : at("top_k", 20) + 1] = 12.1  # top-k 1 to 20
    found = noticed("top_k", gains)
    assert found.below == 20
    assert np.isnan(found.above)
    gains[VARIANCE] = (0.2 / 1.6449) ** 2  # 95 % of the time above 11.9
    assert np.isnan(noticed("top_k", gains).below)
    gains = np.zeros((3, len(FAMILIES["min_p"].values)))
    gains[EXPECTED, at("min_p", 0.1) :] = 12.1
    assert noticed("min_p", gains).above == 0.1


def test_tokens_that_are_never_drawn() -> None:
    # Of four tokens, one costs 1 + ln 4 = 2.386. Token 3 was expected 20 times and drawn, token 2
    # was expected 10 times, token 1 twice: 10 - 2.386 are gained without token 2.
    found = never_drawn(np.array([30.0, 2.0, 10.0, 20.0]), np.array([0, 3, 3]))
    assert (found.value, found.nats) == (1, pytest.approx(10 - 1 - log(4)))
    assert never_drawn(np.array([3.0, 2.0]), np.array([0])).nats == pytest.approx(2 - 1 - log(2))
    assert never_drawn(np.array([3.0, 1.0]), np.array([0])).nats == 0
    assert never_drawn_noticed(50_000) == pytest.approx(CERTAIN_NATS + 1 + log(50_000))


def test_the_numbers_are_fine_enough_between_and_at_both_ends() -> None:
    for family in FAMILIES.values():
        assert list(family.values) == sorted(set(family.values))
        assert family.neutral not in family.values
    top_k = FAMILIES["top_k"].values
    assert {7, 25, 33} <= set(top_k), "every number, not some"
    for name, numbers in {"top_p": (0.83,), "temperature": (0.77,), "min_p": (0.07,)}.items():
        assert set(numbers) <= set(FAMILIES[name].values)


@pytest.mark.parametrize("seed", range(3))
def test_a_true_report_gains_as_little_as_is_said(seed: int) -> None:
    """3000 runs of 400 tosses: the best temperature gains g with a probability below exp(-g)."""
    rng = np.random.default_rng(seed)
    normaliser = of_coins(400)
    heads = rng.binomial(400, 0.75, 3000)
    drawn = heads * log(0.75) + (400 - heads) * log(0.25)
    best = [likeliest("temperature", temperature_gains(normaliser, d)).nats for d in drawn]
    for nats in (1.0, 2.0, 3.0, 4.0):
        share = float(np.mean(np.array(best) >= nats))
        assert share <= exp(-nats) + 3 * sqrt(exp(-nats) / 3000)
