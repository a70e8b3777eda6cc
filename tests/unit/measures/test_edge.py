"""All edge measures on four tokens worked out by hand, and the ways an edge can lack data.

Row 0 holds tokens 0 and 1, row 1 tokens 2 and 3. In units of L = ln 2:

    token           0      1      2      3
    logp_infer     -1     -2     -1      0
    logp_train     -2     -1     -1     -3
    delta          -1      1      0     -3
    ratio          1/2     2      1     1/8
"""

from math import exp, log, sqrt

import numpy as np
import pytest

from mismatch_lab.measures import EDGE_MEASURES, measure_edge

L = log(2)
INFER = L * np.array([-1.0, -2.0, -1.0, 0.0])
TRAIN = L * np.array([-2.0, -1.0, -1.0, -3.0])
ROWS = np.array([0, 0, 1, 1])

BY_HAND = {
    "mean_delta": -3 * L / 4,
    "abs_delta_mean": 5 * L / 4,
    # |delta| sorted: 0 L L 3L. Rank 1.5 -> L; rank 2.97 -> L + 0.97 * 2L.
    "abs_delta_p50": L,
    "abs_delta_p99": 2.94 * L,
    "abs_delta_max": 3 * L,
    # (2 + 2 + 1 + 8) / 4
    "mult_prob_error": 13 / 4,
    # KL(infer || train); the other direction would be -3L/4.
    "kl_infer_train_k1": 3 * L / 4,
    # (1 + 1 + 0 + 9) L^2 / (2 * 4)
    "kl_infer_train_k2": 11 * L**2 / 8,
    # sum ratio = 3.625; (3.625 - 4 + 3L) / 4. With ratio inverted: (11.5 - 4 - 3L) / 4.
    "kl_infer_train_k3": (3 * L - 0.375) / 4,
    # sum ratio^2 = 1/4 + 4 + 1 + 1/64 = 5.265625
    "chi2_token": 5.265625 / 4 - 1,
    "ess": 3.625**2 / (4 * 5.265625),
    # Row sums of delta: 0 and -3L -> ratios 1 and 1/8; row means 0 and -1.5L.
    "seq_ratio_arithmetic": (1 + 1 / 8) / 2,
    "seq_ratio_geometric": (1 + 2**-1.5) / 2,
    "ratio_outside_share": 3 / 4,
    # Deviations: infer 0 -1 0 1 (square sum 2), train -.25 .75 .75 -1.25 (2.75), products -2.
    "pearson": -2 / sqrt(2 * 2.75),
}


@pytest.mark.parametrize("name", EDGE_MEASURES)
def test_value_is_the_one_worked_out_by_hand(name: str) -> None:
    estimate = measure_edge(INFER, TRAIN, ROWS)[name]
    assert estimate.value == pytest.approx(BY_HAND[name], rel=1e-12)
    assert estimate.n == (2 if EDGE_MEASURES[name].per == "sequence" else 4)
    assert estimate.n_dropped == 0


def test_every_measure_has_a_description_a_unit_and_one_definition() -> None:
    for name, measure in EDGE_MEASURES.items():
        assert measure.description, name
        assert measure.unit in {"nats", "nats/token", "1"}, name
        assert (measure.formula is None) != (measure.quantile is None), name


@pytest.mark.parametrize("name", EDGE_MEASURES)
def test_a_dropped_token_is_counted_and_changes_nothing_else(name: str) -> None:
    # A whole extra row of unusable tokens: values must stay those of the four good ones.
    infer = np.concatenate([INFER, [np.nan, -1.0, -np.inf]])
    train = np.concatenate([TRAIN, [-1.0, np.nan, -1.0]])
    estimate = measure_edge(infer, train, np.array([0, 0, 1, 1, 7, 7, 7]))[name]
    assert estimate.value == pytest.approx(BY_HAND[name], rel=1e-12)
    # Three tokens, or the one sequence they make up.
    assert estimate.n_dropped == (1 if EDGE_MEASURES[name].per == "sequence" else 3)


def test_a_sequence_with_a_dropped_token_is_no_sequence_ratio() -> None:
    infer, train = INFER.copy(), TRAIN.copy()
    infer[3] = np.nan
    estimates = measure_edge(infer, train, ROWS)
    # Row 0 alone is whole; its delta sums to 0. Token 2 would have given row 1 a ratio of 1 too,
    # but a part is not the whole.
    assert estimates["seq_ratio_arithmetic"].value == pytest.approx(1.0)
    assert (estimates["seq_ratio_arithmetic"].n, estimates["seq_ratio_arithmetic"].n_dropped) == (
        1,
        1,
    )
    # Tokens 0, 1 and 2 remain: (1 + 1 + 0) L / 3.
    assert estimates["abs_delta_mean"].value == pytest.approx(2 * L / 3)
    assert (estimates["abs_delta_mean"].n, estimates["abs_delta_mean"].n_dropped) == (3, 1)


@pytest.mark.parametrize("name", EDGE_MEASURES)
def test_no_data_is_nan_with_n_zero(name: str) -> None:
    empty = np.empty(0)
    estimate = measure_edge(empty, empty, np.empty(0, dtype=np.int64))[name]
    assert np.isnan([estimate.value, estimate.ci95_low, estimate.ci95_high]).all()
    assert (estimate.n, estimate.n_dropped) == (0, 0)


@pytest.mark.parametrize("name", EDGE_MEASURES)
def test_nothing_but_dropped_tokens_is_nan_with_n_zero(name: str) -> None:
    nan = np.full(3, np.nan)
    estimate = measure_edge(nan, nan, np.array([0, 1, 1]))[name]
    assert np.isnan([estimate.value, estimate.ci95_low, estimate.ci95_high]).all()
    assert (estimate.n, estimate.n_dropped) == (
        0,
        2 if EDGE_MEASURES[name].per == "sequence" else 3,
    )


@pytest.mark.parametrize("name", EDGE_MEASURES)
def test_one_row_has_a_value_but_no_interval(name: str) -> None:
    estimate = measure_edge(INFER, TRAIN, np.zeros(4, dtype=np.int64))[name]
    assert np.isfinite(estimate.value)
    assert np.isnan([estimate.ci95_low, estimate.ci95_high]).all()


def test_lengths_are_named_when_they_differ() -> None:
    with pytest.raises(ValueError, match="logp_infer has 4, logp_train has 1, row_ids has 4"):
        measure_edge(INFER, TRAIN[:1], ROWS)


def test_rows_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="index 1 is 5, index 2 is 1"):
        measure_edge(INFER, TRAIN, np.array([0, 5, 1, 1]))


def test_two_dimensional_log_probs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"logp_infer is \[2, 2\]"):
        measure_edge(INFER.reshape(2, 2), TRAIN.reshape(2, 2), np.array([0, 1]))


def test_same_input_gives_the_same_intervals() -> None:
    # Compared as text, since NaN (the interval of the maximum) is unequal to itself.
    assert repr(measure_edge(INFER, TRAIN, ROWS)) == repr(measure_edge(INFER, TRAIN, ROWS))


def test_identical_sides_are_exactly_perfect() -> None:
    # Different arrays with equal content, as two captures that match bit for bit.
    estimates = measure_edge(TRAIN.copy(), np.array(TRAIN, dtype=np.float64), ROWS)
    perfect = {"mult_prob_error", "ess", "seq_ratio_arithmetic", "seq_ratio_geometric", "pearson"}
    for name, estimate in estimates.items():
        assert estimate.value == pytest.approx(1.0 if name in perfect else 0.0, abs=1e-15), name


def test_k3_of_a_tiny_delta_survives_rounding() -> None:
    # exp(d) - 1 - d = d^2/2 + d^3/6: 5e-17 for d = 1e-8. The naive formula gives -6e-17.
    tiny = np.full(4, 1e-8)
    k3 = measure_edge(np.zeros(4), tiny, ROWS)["kl_infer_train_k3"].value
    assert k3 == pytest.approx(5e-17, rel=1e-6, abs=0)
    assert exp(1e-8) - 1 - 1e-8 < 0


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_sentinel_of_9999_nats_overflows_nothing(sign: float) -> None:
    train = INFER + sign * np.array([9999.0, 0.0, 0.0, 0.0])
    for name, estimate in measure_edge(INFER, train, ROWS).items():
        assert np.isfinite(estimate.value), name
        assert np.isfinite([estimate.ci95_low, estimate.ci95_high]).all() or name == "abs_delta_max"


def test_clipping_says_at_least_exp_300() -> None:
    train = INFER + np.array([9999.0, 0.0, 0.0, 0.0])
    estimates = measure_edge(INFER, train, ROWS)
    # mean(exp(|delta|)) = exp(300) / 4: what the clip leaves; the three ones vanish beside it.
    assert estimates["mult_prob_error"].value == pytest.approx(exp(300) / 4)
    # One weight outweighs all: 1 of 4 tokens counts.
    assert estimates["ess"].value == pytest.approx(0.25)
    # Log-scale measures are not clipped.
    assert estimates["abs_delta_max"].value == pytest.approx(9999.0)


def test_a_constant_side_has_no_correlation() -> None:
    estimate = measure_edge(np.full(4, -0.1), TRAIN, ROWS)["pearson"]
    assert np.isnan(estimate.value)
    assert estimate.n == 4


def test_equal_ratios_far_from_one_are_fully_effective() -> None:
    # All weights exp(-20): equal weights are an effective fraction of 1, however small they are.
    assert measure_edge(INFER, INFER - 20.0, ROWS)["ess"].value == pytest.approx(1.0, rel=1e-12)


def test_band_edges_lie_inside() -> None:
    # Ratios 0.79, 0.81, 1.24, 1.26: the first and the last are outside.
    train = np.log(np.array([0.79, 0.81, 1.24, 1.26]))
    assert measure_edge(np.zeros(4), train, ROWS)["ratio_outside_share"].value == 0.5


def test_float32_input_is_measured_in_float64() -> None:
    infer, train = np.float32([-1.0, -1.0]), np.float32([-1.0, -1.5])
    assert measure_edge(infer, train, np.array([0, 1]))["abs_delta_mean"].value == 0.25


def test_chunks_of_a_long_input_add_up() -> None:
    # 200,000 tokens cross the chunk border of 65,536 three times, in rows of 999 that straddle it.
    rng = np.random.default_rng(1)
    infer = -rng.exponential(1.0, 200_000)
    train = infer + rng.normal(0, 0.1, infer.size)
    rows = np.arange(infer.size) // 999
    estimates = measure_edge(infer, train, rows)
    delta = train - infer
    assert estimates["abs_delta_mean"].value == pytest.approx(np.abs(delta).mean(), rel=1e-12)
    assert estimates["abs_delta_p99"].value == np.quantile(np.abs(delta), 0.99)
    per_row = [np.exp(delta[rows == row].mean()) for row in range(rows[-1] + 1)]
    assert estimates["seq_ratio_geometric"].value == pytest.approx(np.mean(per_row), rel=1e-12)
    assert estimates["pearson"].value == pytest.approx(np.corrcoef(infer, train)[0, 1], rel=1e-9)
