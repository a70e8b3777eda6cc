"""Edges: which captures each compares, which way round, and on which rows."""

from __future__ import annotations

from math import log

import pytest
from hand_made import capture, probed

from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.names import CONFIGURED
from mismatch_lab.errors import AlignmentError
from mismatch_lab.findings.edges import EAGER_EDGES, EDGE_ABOUT, EDGES, measure_edges, measure_pair
from mismatch_lab.measures import EDGE_MEASURES

LEVEL = {
    "decode": -1.0,
    "prefill": -1.25,
    "prefill_repeat": -1.5,
    "train": -2.0,
    "train_repeat": -2.5,
    "train_micro_batch": -3.0,
    "train_mode": -4.0,
    "ref": -0.5,
    "second": -1.5,
}
"""The log-prob of every token in each capture; exact in binary."""

MEAN_DELTA = {
    "decode_train": -1.0,
    "decode_prefill": -0.25,
    "prefill_train": -0.75,
    "train_train": -1.0,
    "train_train.repeat": -0.5,
    "train_train.train_mode": -2.0,
    "infer_ref": 0.75,
    "train_ref": 1.5,
    "infer_infer": -0.25,
    "decode_second": -0.5,
    "prefill_second": -0.25,
    "second_train": -0.5,
    "second_ref": 1.0,
}
"""Second level minus first."""


CONFIGURED_LEVEL = -1.125
"""Of the re-scoring by an engine as configured, where that one is not hooked itself."""


def level(name: str, rows: int = 3) -> Capture:
    nats = CONFIGURED_LEVEL if name == CONFIGURED else LEVEL[name]
    return capture(*[[nats] * 2] * rows)


def test_delta_is_the_second_capture_minus_the_first() -> None:
    edges = measure_edges({name: level(name) for name in LEVEL})
    assert {name: m["mean_delta"].value for name, m in edges.items()} == MEAN_DELTA
    assert {name: m["abs_delta_mean"].value for name, m in edges.items()} == {
        name: abs(value) for name, value in MEAN_DELTA.items()
    }


def test_every_edge_is_measured_in_every_way_and_explained() -> None:
    edges = measure_edges({name: level(name) for name in (*LEVEL, CONFIGURED)})
    assert all(EDGE_MEASURES.keys() <= measures.keys() for measures in edges.values())
    assert EDGE_ABOUT.keys() == EDGES.keys() == edges.keys()


def test_an_engine_started_twice_is_held_against_its_eager_self() -> None:
    edges = measure_edges({name: level(name) for name in (*LEVEL, CONFIGURED)})
    found = {name: edges[name]["mean_delta"].value for name in ("decode_prefill", *EAGER_EDGES)}
    assert found == {"decode_prefill": -0.125, "decode_eager": -0.25, "prefill_eager": -0.125}
    assert edges["prefill_second"]["mean_delta"].value == -0.375  # of the one as configured


def test_an_edge_without_both_captures_is_left_out() -> None:
    edges = measure_edges({name: level(name) for name in ("decode", "train", "train_mode")})
    assert edges.keys() == {"decode_train", "train_train.train_mode"}


def test_a_side_is_compared_with_itself_on_the_rows_that_were_repeated() -> None:
    sides = {name: level(name) for name in ("decode", "prefill", "train")}
    repeats = ("prefill_repeat", "train_repeat", "train_micro_batch", "train_mode")
    edges = measure_edges(sides | {name: level(name, rows=2) for name in repeats})
    # 3 rows of 2 sampled tokens, or the first 2 of them.
    assert {name: m["mean_delta"].n for name, m in edges.items()} == {
        "decode_train": 6,
        "decode_prefill": 6,
        "prefill_train": 6,
        "train_train": 4,
        "train_train.repeat": 4,
        "train_train.train_mode": 4,
        "infer_infer": 4,
    }
    assert edges["infer_infer"]["mean_delta"].value == -0.25


def test_two_sides_on_different_rows_are_an_error() -> None:
    with pytest.raises(AlignmentError, match="decode has 3 rows and train has 2"):
        measure_edges({"decode": level("decode"), "train": level("train", rows=2)})


def test_a_non_finite_log_prob_is_counted_and_left_out() -> None:
    infer = capture([-1.0, float("nan")], [-1.0, -1.0])
    train = capture([-2.0, -2.0], [float("-inf"), -2.0])
    found = measure_pair(infer, train, ("infer", "train"))["mean_delta"]
    assert (found.value, found.n, found.n_dropped) == (-1.0, 2, 2)


def test_exact_kl_on_the_positions_both_probed_and_the_tokens_both_know() -> None:
    # Positions 1 and 2 are the sampled tokens of row 0, position 4 is one of row 1. Only 2 and 4
    # are on both sides; the trainer's vocabulary is padded with a third token.
    base = capture([-1.0, -1.0], [-1.0])
    infer = probed(base, [1, 2, 4], [[0.9, 0.1], [0.6, 0.4], [0.5, 0.5]])
    train = probed(base, [2, 4], [[0.25, 0.75, 0.0], [0.5, 0.5, 0.0]])
    found = measure_pair(infer, train, ("infer", "train"))
    # At 2: 0.6 ln(0.6/0.25) + 0.4 ln(0.4/0.75) = 0.525 - 0.251 = 0.274; at 4: 0.
    expected = (0.6 * log(2.4) + 0.4 * log(0.4 / 0.75)) / 2
    kl = found["kl_infer_train_exact"]
    assert kl.value == pytest.approx(expected, rel=1e-6) == pytest.approx(0.13692, abs=1e-5)
    assert (kl.n, kl.n_dropped) == (2, 0)
    # At 2 token 0 against token 1; at 4 both rank token 0 first (the lowest id of a tie).
    assert found["top1_agreement"].value == 0.5


def test_padding_on_the_engines_side_changes_nothing() -> None:
    base = capture([-1.0], [-1.0])
    plain, padded = (
        probed(base, [1, 3], [[0.6, 0.4, *pad], [0.3, 0.7, *pad]]) for pad in ([], [0.0, 0.0])
    )
    train = probed(base, [1, 3], [[0.5, 0.5], [0.4, 0.6]])
    left, right = (measure_pair(infer, train, ("infer", "train")) for infer in (plain, padded))
    for name in ("kl_infer_train_exact", "top1_agreement"):
        assert left[name] == right[name]
        assert left[name].n == 2


def test_without_shared_positions_there_is_no_exact_kl() -> None:
    base = capture([-1.0, -1.0])
    infer, train = probed(base, [1], [[0.6, 0.4]]), probed(base, [2], [[0.6, 0.4]])
    assert "kl_infer_train_exact" not in measure_pair(infer, train, ("infer", "train"))
