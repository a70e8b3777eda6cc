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
    OBSERVED,
    VARIANCE,
    held_out,
    likeliest,
    never_drawn,
    never_drawn_noticed,
    noticed,
)


def of_coins(n: int, heads: int) -> NDArray[np.float64]:
    """Gains of n tosses, some of them heads, of a coin that shows heads with 3/4.

    At temperature T heads are 3^(1/T) times as likely as tails: with q, a head gains ln q / (3/4).
    """
    columns = []
    for temperature in FAMILIES["temperature"].values:
        q = 3 ** (1 / temperature) / (1 + 3 ** (1 / temperature))
        head, tail = log(q / 0.75), log((1 - q) / 0.25)
        mean = q * head + (1 - q) * tail
        spread = q * (1 - q) * (head - tail) ** 2
        columns.append([heads * head + (n - heads) * tail, n * mean, n * spread])
    return np.array(columns).T


def at(family: str, value: float) -> int:
    return FAMILIES[family].values.index(value)


def test_the_error_rate_is_shared_by_z_and_eight_families() -> None:
    # 8 exp(-nats) = 5e-5, and 5e-5 beyond z on both sides of a normal distribution.
    assert 8 * exp(-CERTAIN_NATS) == pytest.approx(5e-5)
    assert pytest.approx(4.056, abs=1e-3) == CERTAIN_Z


@pytest.mark.parametrize(
    ("heads", "temperature"),
    # 3^(1/T) is 9 to 1 at T = 1/2; 3.862 to 1 and 2.598 to 1 at 0.813 and 1.151, between values.
    [(9000, 0.5), (7943, 0.813), (7221, 1.151), (7500, 1.0)],
)
def test_the_likeliest_temperature_is_the_one_that_was_used(heads: int, temperature: float) -> None:
    found = likeliest("temperature", of_coins(10_000, heads))
    assert found.value == pytest.approx(temperature, rel=0.01)
    assert found.low < temperature < found.high
    if temperature == 1:
        assert found.nats < 0, "no value gains: drawn as reported"
        # A head more or less moves ln T by 1 / (N Var ln 3 ...): the parabola falls by 3 nats where
        # sqrt(2 * 3 / (N Var)) = 0.0515 is its width, Var = 3/16 ln(3)^2 = 0.2263.
        assert log(found.high) == pytest.approx(0.0515, rel=0.1)


def test_beyond_the_values_the_last_one_is_told() -> None:
    found = likeliest("temperature", of_coins(1000, 999))  # T = 0.159
    assert found.value == 0.25
    assert likeliest("temperature", of_coins(1000, 520)).value == 2.2  # T = 13


def test_the_number_of_an_edge_is_the_best_value_with_those_that_are_near() -> None:
    gains = np.full((3, 256), -50.0)
    gains[OBSERVED, 28:34] = [9.0, 8.5, 7.0, 6.1, 5.9, 5.0]  # top-k 29 to 34
    found = likeliest("top_k", gains)
    assert (found.value, found.nats, found.low, found.high) == (29, 9.0, 29, 32)


def test_a_number_is_held_against_tokens_that_it_was_not_chosen_on() -> None:
    chosen, others = np.full((2, 3, 256), -50.0)
    chosen[OBSERVED, 28:31] = [9.0, 8.5, 7.0]  # top-k 29 to 31
    others[OBSERVED, 28:31] = [1.0, 2.0, 4.0]
    assert held_out("top_k", chosen, others) == 4.0  # the most cautious of the three
    assert held_out("temperature", of_coins(1000, 900), of_coins(1000, 750)) < -30
    assert held_out("temperature", of_coins(1000, 900), of_coins(1000, 900)) > 60


def test_a_temperature_is_noticed_where_its_gain_is_sure_to_be_enough() -> None:
    # u = sqrt(N Var) |1 - 1/T| standard deviations gain u^2 / 2 on average, give or take u: enough
    # with 95 % where u^2 / 2 - 1.645 u = 12, u = 6.8. With Var = 3/16 ln(3)^2 that is, at N =
    # 10,000, |1 - 1/T| = 0.143 and about T = 0.875 and 1.167.
    found = noticed("temperature", of_coins(10_000, 7500))
    assert found.below == pytest.approx(0.875, abs=0.01)
    assert found.above == pytest.approx(1.167, abs=0.02)
    few = noticed("temperature", of_coins(10, 7))
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


def test_no_edge_is_left_out_and_no_value_changes_nothing() -> None:
    for family in FAMILIES.values():
        assert list(family.values) == sorted(set(family.values))
        assert family.neutral not in family.values
    assert FAMILIES["top_k"].values == tuple(range(1, 257))
    assert {0.83, 0.95} <= set(FAMILIES["top_p"].values)
    assert 0.07 in FAMILIES["min_p"].values


@pytest.mark.parametrize("change", [0.93, 0.97, 1.04, 1.07, 1.3])
def test_between_values_of_a_temperature_little_is_lost(change: float) -> None:
    # Tokens enough that the right number itself would gain 20 nats.
    q = 3 ** (1 / change) / (1 + 3 ** (1 / change))
    each = q * log(q / 0.75) + (1 - q) * log((1 - q) / 0.25)
    n = round(20 / each)
    assert likeliest("temperature", of_coins(n, round(q * n))).nats > 17


@pytest.mark.parametrize("seed", range(3))
def test_a_true_report_gains_as_little_as_is_said(seed: int) -> None:
    """3000 runs of 400 tosses: the best temperature gains g with a probability below exp(-g)."""
    rng = np.random.default_rng(seed)
    heads = rng.binomial(400, 0.75, 3000)
    best = [likeliest("temperature", of_coins(400, int(h))).nats for h in heads]
    for nats in (1.0, 2.0, 3.0, 4.0):
        share = float(np.mean(np.array(best) >= nats))
        assert share <= exp(-nats) + 3 * sqrt(exp(-nats) / 3000)


def test_a_likelihood_so_flat_that_it_bounds_nothing_has_no_end() -> None:
    family = FAMILIES["temperature"]
    assert family.off_line(1225.5) == float("inf")
    assert family.off_line(-1225.5) == 0.0
    assert family.off_line(0.0) == 1.0
