"""Causes of tokens without a log-prob: who, and why, from what was recorded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from builders import answered

from mismatch_lab.attribution.candidates import build_cause
from mismatch_lab.attribution.odd_causes import masked_ids, odd_causes, spans_of, with_odd
from mismatch_lab.captures.capture import Capture
from mismatch_lab.findings.odd_tokens import odd_tokens
from mismatch_lab.schema import Cause

NAN, INF = float("nan"), float("inf")


def with_probes(capture: Capture, at: list[int], probabilities: list[list[float]]) -> Capture:
    with np.errstate(divide="ignore"):
        full = np.log(np.array(probabilities)).astype(np.float32)
    return replace(capture, probe_positions=np.array(at), probe_logp=full)


def the_cause(**captures: Capture) -> Cause:
    (cause,) = odd_causes(odd_tokens(captures), captures, {})
    return cause


EXPECTED = answered([-1.0, -2.0, -3.0])


def test_a_whole_distribution_of_nan_is_computed() -> None:
    train = with_probes(answered([-1.0, NAN, -3.0]), [2], [[NAN, NAN]])
    assert "computes NaN" in the_cause(decode=EXPECTED, train=train).why


def test_a_distribution_without_its_log_prob_is_a_lost_record() -> None:
    train = with_probes(answered([-1.0, NAN, -3.0]), [2], [[0.5, 0.5]])
    assert "the record is missing" in the_cause(decode=EXPECTED, train=train).why


def test_what_is_there_when_scored_again_was_lost() -> None:
    decode = answered([-1.0, NAN, -3.0])
    cause = the_cause(decode=decode, prefill=EXPECTED, train=EXPECTED)
    assert (cause.id, cause.side) == ("missing-logprobs", "infer")
    assert "scores the same tokens again" in cause.why


def test_nan_to_the_end_of_a_row_is_counted() -> None:
    cause = the_cause(decode=EXPECTED, train=answered([-1.0, NAN, NAN]))
    assert [e.value for e in cause.evidence if "to" in e.observation][-1] == 1


def test_a_mask_is_told_by_its_entries() -> None:
    train = with_probes(
        answered([-1.0, -INF, -3.0]), [1, 3], [[0.5, 0.5, 0, 0], [0.25, 0.75, 0, 0]]
    )
    cause = the_cause(decode=EXPECTED, train=train)
    assert (cause.id, cause.side) == ("impossible-token", "train")
    assert "masks 2 entries of the vocabulary, ids 2 to 3" in cause.why
    assert masked_ids(train) == ((2, 4),)


def test_a_support_that_moves_is_what_top_k_keeps() -> None:
    train = with_probes(answered([-1.0, -INF, -3.0]), [1, 3], [[0.5, 0.5, 0], [0, 0.5, 0.5]])
    assert "2 of 3 entries, as top-k" in the_cause(decode=EXPECTED, train=train).why


def test_values_alone() -> None:
    decode = with_probes(answered([-1.0, -INF, -3.0]), [1], [[0.5, 0.5]])
    assert "only the reported values" in the_cause(decode=decode, train=EXPECTED).why


def test_ranges() -> None:
    assert spans_of(np.array([False, True, True, False, True])) == ((1, 3), (4, 5))
    assert spans_of(np.zeros(3, bool)) == ()


def test_above_0_is_named_only_where_nothing_surer_is() -> None:
    odd = odd_causes(
        odd_tokens({"decode": EXPECTED, "train": answered([-1.0, 0.5, -3.0])}),
        {"decode": EXPECTED, "train": answered([-1.0, 0.5, -3.0])},
        {},
    )
    surer = build_cause("sentinel-values", "train", 0.95, "", [])
    other = build_cause("sentinel-values", "infer", 0.95, "", [])
    assert [c.id for c in with_odd([surer], odd)] == ["sentinel-values"]
    assert [c.id for c in with_odd([other], odd)] == ["sentinel-values", "partial-normaliser"]
    simulated = build_cause("partial-normaliser", "train", 0.98, "", [], location="lm_head")
    (both,) = with_odd([simulated], odd)
    assert both.location == "lm_head"
    assert both.confidence == 0.98
