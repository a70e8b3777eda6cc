"""What two captures alone support."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hand_made import capture

from mismatch_lab.captures.capture import Capture
from mismatch_lab.errors import AlignmentError
from mismatch_lab.run.compare import compare_findings
from mismatch_lab.schema import Limits, Manifest, Sampling

NAMES = ("a", "b")
LIMITS = Limits(min_tokens=8, min_rows=4)


def four_rows(level: float) -> Capture:
    return capture(*[[level, level - 0.5, level - 1.0]] * 4)


def with_token(base: Capture, at: int, token: int) -> Capture:
    ids = base.rows.token_ids.copy()
    ids[at] = token
    return replace(base, rows=replace(base.rows, token_ids=ids))


def test_two_captures_alone_give_one_edge_and_no_floor() -> None:
    found = compare_findings(four_rows(-1.0), four_rows(-1.25), NAMES, LIMITS)
    assert found.edges.keys() == {"decode_train"}
    assert found.edges["decode_train"]["mean_delta"].value == -0.25
    assert found.noise_floor is None
    assert found.localisation is None
    assert found.verdict.status == "mismatch"
    assert found.notes


def test_the_edge_is_measured_where_ids_agree() -> None:
    train = with_token(four_rows(-1.25), 5, 99)  # row 1, the first of its three answer tokens
    found = compare_findings(four_rows(-1.0), train, NAMES, LIMITS)
    assert [cause.id for cause in found.verdict.causes] == ["retokenisation"]
    assert found.edges["decode_train"]["abs_delta_mean"].n == 9  # 3 other rows of 3 tokens
    assert found.edges["decode_train"]["mean_delta"].value == -0.25
    assert "1 of 4 rows" in found.verdict.headline


def test_where_no_row_has_the_same_ids_there_is_no_edge() -> None:
    train = four_rows(-1.0)
    for row in range(4):
        train = with_token(train, 4 * row, 99)  # every prompt
    found = compare_findings(four_rows(-1.0), train, NAMES, LIMITS)
    assert [cause.id for cause in found.verdict.causes] == ["prompt-template"]
    assert found.edges == {}
    assert "cannot be compared" in found.verdict.reasons[-1]


def test_captures_of_other_conversations_are_refused() -> None:
    ids = np.arange(100, 116, dtype=np.int32)
    train = four_rows(-1.0)
    train = replace(train, rows=replace(train.rows, token_ids=ids))
    with pytest.raises(AlignmentError, match="Row 0, position 0: token 0 in a, 100 in b"):
        compare_findings(four_rows(-1.0), train, NAMES, LIMITS)


def test_constants_that_move_no_average_are_a_mismatch() -> None:
    # Tokens 4001 and 4501 of the first row, at -4000/4500 and -4500/4500 nats, become 0: of 20000
    # tokens that is 17/9 / 20000 = 9.4e-5 on average, below the match limit of 1e-4.
    infer = capture(*[(-np.arange(5000) / 4500).tolist()] * 4)
    logp = infer.logp.copy()
    logp[[4001, 4501]] = 0.0
    found = compare_findings(infer, replace(infer, logp=logp), NAMES, LIMITS)
    size = found.edges["decode_train"]["abs_delta_mean"].value
    assert size == pytest.approx(17 / 9 / 20000, rel=1e-3)
    assert found.verdict.status == "mismatch"
    assert [(c.id, c.side) for c in found.verdict.causes] == [("missing-logprobs", "train")]


def test_a_record_that_is_a_copy_is_an_error_with_its_name() -> None:
    found = compare_findings(four_rows(-1.0), four_rows(-1.0), NAMES, LIMITS)
    assert found.verdict.status == "error"
    (cause,) = found.verdict.causes
    assert (cause.id, cause.family) == ("copied-logprobs", "record")
    assert cause.remedy is not None
    assert found.record is not None
    assert found.record.copied_rows == 4


def test_a_side_of_zeros_is_an_error_and_no_measurement() -> None:
    zeros = replace(four_rows(-1.0), logp=np.where(four_rows(-1.0).rows.sampled, 0, np.nan))
    found = compare_findings(four_rows(-1.0), zeros, NAMES, LIMITS)
    assert (found.verdict.status, found.verdict.causes[0].id) == ("error", "missing-logprobs")
    assert "none was recorded" in found.verdict.headline


def eight_rows(lower: float = 0.0) -> Capture:
    logp = [[-1.0 - row / 32 - at / 64 - lower for at in range(12)] for row in range(8)]
    return capture(*logp)


def test_copies_among_rows_that_agree_are_a_mismatch_that_no_average_shows() -> None:
    # 1/16384 nats everywhere, below the match limit of 1e-4; two rows are copies.
    infer, train = eight_rows(), eight_rows(1 / 16384)
    logp = train.logp.copy()
    logp[:26] = infer.logp[:26]
    found = compare_findings(infer, replace(train, logp=logp), NAMES, LIMITS)
    assert found.edges["decode_train"]["abs_delta_mean"].value == 1 / 16384
    assert found.edges["decode_train"]["abs_delta_mean"].n == 6 * 12
    assert found.verdict.status == "mismatch"
    assert [c.id for c in found.verdict.causes] == ["copied-logprobs"]
    assert "In 2 of 8 rows" in found.verdict.headline


def test_the_verdict_is_that_of_the_rows_at_lag_0() -> None:
    infer = eight_rows()
    stale = infer.rows.row_ids() >= 4
    train = replace(infer, logp=infer.logp - np.where(stale, 0.5, 1 / 16384).astype(np.float32))
    versions = np.where(stale, 2, 3)
    train = replace(train, versions=np.full_like(versions, 3))
    found = compare_findings(replace(infer, versions=versions), train, NAMES, LIMITS)
    assert found.verdict.status == "match"
    assert found.record is not None
    assert found.record.grows
    assert [(r.lag, r.rows, r.abs_delta_mean.value) for r in found.record.lags] == [
        (0, 4, 1 / 16384),
        (1, 4, 0.5),
    ]


def test_log_probs_of_other_distributions_by_their_own_account() -> None:
    sampling = Sampling(temperature=0.7, max_tokens=3)
    raw, processed = (
        Manifest.model_construct(
            sampling=sampling, logprob_space=space, model="", options={}, engine="vllm"
        )
        for space in ("raw", "processed")
    )
    a, b = four_rows(-1.0), capture(*[[-0.5, -1.75, -2.5]] * 4)
    found = compare_findings(a, b, NAMES, LIMITS, (raw, processed))
    (cause,) = found.verdict.causes
    assert (cause.id, cause.side, cause.confidence) == ("raw-logprobs-temperature", "infer", 0.6)
    assert "temperature 0.7" in cause.why
    alike = compare_findings(a, b, NAMES, LIMITS, (processed, processed))
    assert alike.verdict.causes == []
