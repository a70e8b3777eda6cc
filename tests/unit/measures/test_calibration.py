"""The z-test of sampled against reported log-probs."""

from math import log, sqrt

import numpy as np
import pytest

from mismatch_lab.measures.calibration import Calibration, calibration

# p = (1/4, 3/4). In log p the gap is ln 3, so H = -(ln(1/4) + 3/4 ln 3) and the variance of a
# log-prob is 1/4 * 3/4 * ln(3)^2.
ENTROPY, VARIANCE = -(log(0.25) + 0.75 * log(3)), 3 / 16 * log(3) ** 2


def of_coin(logp: list[float]) -> Calibration:
    """Tokens of that distribution."""
    n = len(logp)
    return calibration(np.array(logp), np.full(n, ENTROPY), np.full(n, VARIANCE))


def test_z_by_hand() -> None:
    # The rare one, twice: an excess of -3/4 ln 3 each, z = -2 * 3/4 / sqrt(2 * 3/16) = -sqrt(6).
    result = of_coin([log(0.25)] * 2)
    assert result.z == pytest.approx(-sqrt(6))
    assert result.mean_excess_nats == pytest.approx(-0.75 * log(3))
    # 2 Phi(-2.4495)
    assert result.p_value == pytest.approx(0.014306, rel=1e-3)
    assert (result.n, result.n_dropped, result.n_impossible) == (2, 0, 0)


def test_honest_report_passes_and_wrong_temperature_does_not() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, size=(4000, 32))
    logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    entropy = -(np.exp(logp) * logp).sum(axis=1)
    variance = (np.exp(logp) * (logp + entropy[:, None]) ** 2).sum(axis=1)
    gumbel = rng.gumbel(size=logits.shape)
    index = np.arange(len(logits))
    honest = logp[index, (logits + gumbel).argmax(axis=1)]
    sharper = logp[index, (logits / 0.7 + gumbel).argmax(axis=1)]
    assert abs(calibration(honest, entropy, variance).z) < 3
    assert calibration(sharper, entropy, variance).z > 10


def test_a_sampled_token_of_probability_zero_is_told_apart() -> None:
    result = of_coin([log(0.75), -np.inf])
    assert (result.n, result.n_dropped, result.n_impossible) == (1, 0, 1)
    # Excess of the common one: 1/4 ln 3, deviation sqrt(3)/4 ln 3.
    assert result.z == pytest.approx(1 / sqrt(3))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_unusable_tokens_are_dropped(bad: float) -> None:
    entropy = np.array([ENTROPY, bad, ENTROPY])
    result = calibration(np.array([log(0.75), -1.0, bad]), entropy, np.full(3, VARIANCE))
    assert (result.n, result.n_dropped) == (1, 2)


def test_certain_tokens_test_nothing() -> None:
    result = calibration(np.zeros(1), np.zeros(1), np.zeros(1))
    assert np.isnan([result.z, result.p_value]).all()
    assert (result.n, result.mean_excess_nats) == (1, 0.0)


def test_empty_is_nan_with_n_zero() -> None:
    result = of_coin([])
    assert np.isnan([result.z, result.p_value, result.mean_excess_nats]).all()
    assert result.n == 0


def test_lengths_must_pair_up() -> None:
    with pytest.raises(ValueError, match="logp_sampled has 1, entropy has 2"):
        calibration(np.zeros(1), np.zeros(2), np.zeros(2))
