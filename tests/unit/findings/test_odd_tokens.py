"""Sampled tokens without a log-prob: which, on which side, and what is said of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hand_made import NAN, capture

from mismatch_lab.findings.odd_tokens import (
    in_words,
    not_measurable,
    odd_masks,
    odd_tokens,
    only_finite,
)
from mismatch_lab.run.compare import compare_findings
from mismatch_lab.schema import Findings, Limits

INF = float("inf")


def test_each_kind_is_told_with_row_position_id_and_both_values() -> None:
    # Row 0 is tokens 0 (prompt), 1, 2; row 1 is 3 (prompt), 4, 5.
    infer = replace(capture([-1.0, -2.0], [NAN, -4.0]), token_text={5: "a\x1b\n"})
    train = capture([-1.0, 0.25], [-3.0, -INF])
    found = {odd.kind: odd for odd in odd_tokens({"decode": infer, "train": train})}
    assert set(found) == {"missing", "impossible", "positive"}
    missing, impossible, positive = (found[kind] for kind in ("missing", "impossible", "positive"))
    assert (missing.side, missing.capture, missing.n, missing.of) == ("infer", "decode", 1, 4)
    token = missing.tokens[0]
    assert (token.row, token.position, token.token_id) == (1, 0, 4)
    assert np.isnan(token.logp_infer)
    assert token.logp_train == -3.0
    assert (impossible.side, impossible.tokens[0].token_id) == ("train", 5)
    assert impossible.tokens[0].text == "a\\x1b\\n"
    assert (positive.side, positive.tokens[0].position) == ("train", 1)
    assert positive.tokens[0].logp_train == 0.25
    assert "row 1, position 1, token 5" in in_words(impossible)


def test_what_neither_side_has_is_no_difference() -> None:
    same = np.array([NAN, -INF, -1.0, 0.0], np.float32)
    assert odd_masks(same, same) == []


def test_a_rounding_above_0_is_none() -> None:
    logp = np.array([1e-6, 1e-4, 0.01], np.float32)
    masks = odd_masks(logp, np.zeros(3, np.float32))
    assert [mask.flat.tolist() for mask in masks] == [[2]]


def test_a_side_with_nothing_else_cannot_be_measured() -> None:
    infer, train = capture([-1.0, -2.0]), capture([NAN, NAN])
    found = odd_tokens({"decode": infer, "train": train})
    assert "all 2 sampled tokens of the trainer" in not_measurable(found)
    assert not_measurable(odd_tokens({"decode": infer, "train": capture([NAN, -2.0])})) == ""


def test_means_leave_out_what_is_infinite() -> None:
    kept = only_finite({"train": capture([-INF, -2.0])})["train"].logp
    assert np.isnan(kept[1])
    assert kept[2] == -2.0


@pytest.mark.parametrize(
    ("value", "cause"),
    [(NAN, "missing-logprobs"), (-INF, "impossible-token"), (0.75, "partial-normaliser")],
)
@pytest.mark.parametrize("side", ["infer", "train"])
def test_compare_goes_on_and_names_the_side(value: float, cause: str, side: str) -> None:
    rng = np.random.default_rng(0)
    answers = [(-rng.random(64) - 0.1).tolist() for _ in range(6)]
    spoilt = [list(answer) for answer in answers]
    spoilt[2][7] = value
    sides = [capture(*answers), capture(*(spoilt))]
    infer, train = sides if side == "train" else sides[::-1]
    found = compare_findings(infer, train, ("a", "b"), Limits())
    assert found.verdict.status == "mismatch"
    named = [(c.id, c.side) for c in found.verdict.causes]
    assert (cause, side) in named
    assert len(named) == 1
    assert found.odd_tokens[0].tokens[0].row == 2
    assert found.odd_tokens[0].tokens[0].position == 7
    assert Findings.model_validate_json(found.model_dump_json()).odd_tokens[0].n == 1


def test_compare_of_a_side_that_is_nan_throughout_is_an_error() -> None:
    found = compare_findings(capture([-1.0]), capture([NAN]), ("a", "b"), Limits())
    assert found.verdict.status == "error"
    assert "all 1 sampled tokens of the trainer (train)" in found.verdict.headline
    size = found.edges["decode_train"]["abs_delta_mean"]
    assert size.n == 0
    assert np.isnan(size.value)
