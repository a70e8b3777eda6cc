"""What two captures alone support."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hand_made import capture

from mismatch_lab.captures.capture import Capture
from mismatch_lab.errors import AlignmentError
from mismatch_lab.findings.compare import compare_findings
from mismatch_lab.schema import Limits

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
    # Tokens 60 and 61 of the first row, at -59/3000 and -60/3000 nats, become 0: of 4000 tokens
    # that is 119/3000 / 4000 = 9.9e-6 on average, below the match limit of 1e-4.
    infer = capture(*[(-np.arange(1, 1001) / 3000).tolist()] * 4)
    logp = infer.logp.copy()
    logp[59:61] = 0.0
    found = compare_findings(infer, replace(infer, logp=logp), NAMES, LIMITS)
    size = found.edges["decode_train"]["abs_delta_mean"].value
    assert size == pytest.approx(119 / 3000 / 4000, rel=1e-3)
    assert found.verdict.status == "mismatch"
    assert [(c.id, c.side) for c in found.verdict.causes] == [("sentinel-values", "train")]
