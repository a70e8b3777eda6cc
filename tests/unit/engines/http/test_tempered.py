"""Log-probs at a temperature from the likeliest tokens: a vocabulary of four, by hand."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from mismatch_lab.engines.http.server import Scored
from mismatch_lab.engines.http.tempered import own_logp, whole_logp

P = (0.5, 0.3, 0.15, 0.05)


def scored(kept: list[int], own: int) -> Scored:
    """Two tokens; of the second's distribution P these are known, and that of the token itself."""
    ids = np.array([[-1] * len(kept), kept])
    logp = np.array([[np.nan] * len(kept), [log(P[i]) for i in kept]], np.float32)
    return Scored(np.array([np.nan, log(P[own])], np.float32), ids, logp)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("own", range(4))
def test_of_the_whole_vocabulary_it_is_exact(temperature: float, own: int) -> None:
    found = own_logp(scored([0, 1, 2, 3], own), [9, own], temperature, 4, "float32")
    powers = [p ** (1 / temperature) for p in P]
    # T = 1/2: squares 0.25, 0.09, 0.0225, 0.0025 sum to 0.365.
    assert temperature == 2 or sum(powers) == pytest.approx(0.365)
    assert found[1] == pytest.approx(log(powers[own] / sum(powers)), abs=1e-6)
    assert np.isnan(found[0])


def test_a_token_beside_the_likeliest_completes_them() -> None:
    found = own_logp(scored([0, 1, 2], 3), [9, 3], 0.5, 4, "float32")
    assert found[1] == pytest.approx(log(0.0025 / 0.365), abs=1e-6)


def test_where_the_rest_may_matter_there_is_no_value() -> None:
    # Squares of the two known ones: 0.34. The rest holds 0.2 on two tokens: between 2 * 0.1^2 and
    # 0.2 * 0.3, so that the normaliser lies between 0.36 and 0.4: half of log(0.4 / 0.36) is 0.05.
    assert np.isnan(own_logp(scored([0, 1], 0), [9, 0], 0.5, 4, "float32")[1])


def test_where_the_rest_is_small_it_is_told_to_the_tolerance_of_the_precision() -> None:
    """A vocabulary of 1000: 1 - 1e-4 on one token, the rest on 999 (1e-7 each)."""
    sure, rest = 1 - 1e-4, 1e-4 / 999
    ids = np.array([[-1, -1], [0, 1]])
    logp = np.array([[np.nan] * 2, [log(sure), log(rest)]], np.float32)
    one = Scored(np.array([np.nan, log(sure)], np.float32), ids, logp)
    exact = 2 * log(sure) - log(sure**2 + 999 * rest**2)
    assert own_logp(one, [9, 0], 0.5, 1000, "float32")[1] == pytest.approx(exact, abs=5e-6)
    # At 2 the rest weighs as much as 999 roots of 1e-7: it is not told from nothing.
    assert np.isnan(own_logp(one, [9, 0], 2.0, 1000, "bfloat16")[1])


def test_at_temperature_1_it_is_what_the_server_said() -> None:
    one = scored([], 2)
    np.testing.assert_array_equal(own_logp(one, [9, 2], 1.0, 4, "float32"), one.logp)


def test_whole_distributions_are_put_in_the_order_of_ids() -> None:
    step = {i: log(P[i]) for i in (2, 0, 3, 1)}
    found = whole_logp([step], 0.5, 4)
    np.testing.assert_allclose(np.exp(found[0]), np.square(P) / 0.365, rtol=1e-5)
    plain = whole_logp([step], 1.0, 4)
    np.testing.assert_allclose(np.exp(plain[0]), P, rtol=1e-5)
