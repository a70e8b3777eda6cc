"""The z-test of sampled against reported log-probs."""

from math import log, sqrt

import numpy as np
import pytest

from mismatch_lab.measures.calibration import calibration

SKEWED = np.log(np.array([0.25, 0.75]))


def test_z_by_hand() -> None:
    # p = (1/4, 3/4), sampled the rare one twice. In log p the gap is ln 3, so
    # E = ln(1/4) + 3/4 ln 3 and Var = 1/4 * 3/4 * ln(3)^2. Excess of the rare one: -3/4 ln 3.
    result = calibration(np.array([log(0.25)] * 2), np.stack([SKEWED, SKEWED]))
    # z = -2 * 3/4 / sqrt(2 * 3/16) = -sqrt(6)
    assert result.z == pytest.approx(-sqrt(6))
    assert result.mean_excess_nats == pytest.approx(-0.75 * log(3))
    # 2 Phi(-2.4495)
    assert result.p_value == pytest.approx(0.014306, rel=1e-3)
    assert (result.n, result.n_dropped, result.n_impossible) == (2, 0, 0)


def test_honest_report_passes_and_wrong_temperature_does_not() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, size=(4000, 32))
    logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    gumbel = rng.gumbel(size=logits.shape)
    index = np.arange(len(logits))
    honest = logp[index, (logits + gumbel).argmax(axis=1)]
    sharper = logp[index, (logits / 0.7 + gumbel).argmax(axis=1)]
    assert abs(calibration(honest, logp).z) < 3
    assert calibration(sharper, logp).z > 10


def test_a_sampled_token_of_probability_zero_is_told_apart() -> None:
    probe = np.stack([SKEWED, np.array([0.0, -np.inf])])
    result = calibration(np.array([log(0.75), -np.inf]), probe)
    assert (result.n, result.n_dropped, result.n_impossible) == (1, 0, 1)
    # Excess of the common one: 1/4 ln 3, deviation sqrt(3)/4 ln 3.
    assert result.z == pytest.approx(1 / sqrt(3))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_unusable_positions_are_dropped(bad: float) -> None:
    probe = np.stack([SKEWED, np.array([bad, -1.0]), np.array([-np.inf, -np.inf])])
    result = calibration(np.array([log(0.75), -1.0, -1.0]), probe)
    assert (result.n, result.n_dropped) == (1, 2)


def test_certain_tokens_test_nothing() -> None:
    result = calibration(np.array([0.0]), np.array([[0.0, -np.inf]]))
    assert np.isnan([result.z, result.p_value]).all()
    assert (result.n, result.mean_excess_nats) == (1, 0.0)


def test_empty_is_nan_with_n_zero() -> None:
    result = calibration(np.empty(0), np.empty((0, 4)))
    assert np.isnan([result.z, result.p_value, result.mean_excess_nats]).all()
    assert result.n == 0


def test_shapes_must_pair_up() -> None:
    with pytest.raises(ValueError, match="logp_sampled has 1, probe_logp has 2"):
        calibration(np.zeros(1), np.stack([SKEWED, SKEWED]))
    with pytest.raises(ValueError, match="P, V"):
        calibration(np.zeros(2), SKEWED)
