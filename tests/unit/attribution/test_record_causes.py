"""Copies, and a side that holds one number throughout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mismatch_lab.attribution.record_causes import copied_cause, one_number_cause
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.schema import RecordFindings

NAN = float("nan")


def record(copied: int, compared: int) -> RecordFindings:
    return RecordFindings(
        rows=8,
        compared_rows=compared,
        repeated_rows=0,
        copied_rows=copied,
        copied_tokens=12 * copied,
        equal_elsewhere=0.02 if compared else NAN,
        stale_rows=0,
    )


def side(*logp: float) -> Capture:
    rows = Rows.build([[1, 2, 3, 4]], [1], [[False, True, True, True]])
    return Capture(rows, np.array([NAN, *logp], np.float32))


def test_copies_in_some_rows_are_surer_than_in_all() -> None:
    (some,), (whole,) = copied_cause(record(3, 5)), copied_cause(record(8, 0))
    assert (some.id, some.family, some.side) == ("copied-logprobs", "record", "both")
    assert (some.confidence, whole.confidence) == (0.9, 0.6)
    assert [e.value for e in some.evidence] == [3, 0.02]
    assert "3 of 8 rows" in some.why
    assert copied_cause(record(0, 8)) == []


@pytest.mark.parametrize(("value", "id"), [(0.0, "missing-logprobs"), (-9999.0, "sentinel-values")])
def test_one_number_throughout_is_no_record_of_that_side(value: float, id: str) -> None:
    filled, other = side(value, value, value), side(-1.0, -2.0, -0.5)
    (cause,) = one_number_cause(other, filled)
    assert (cause.id, cause.side) == (id, "train")
    assert f"All 3 log-probs of the trainer are {value:g}" in cause.why
    (mirrored,) = one_number_cause(filled, other)
    assert mirrored.side == "infer"


def test_certain_on_both_sides_is_a_record() -> None:
    certain = side(0.0, 0.0, 0.0)
    assert one_number_cause(certain, certain) == []
    assert one_number_cause(side(-1.0, -2.0, -0.5), side(-1.0, -2.5, -0.5)) == []


def test_what_is_missing_elsewhere_does_not_count() -> None:
    gap = replace(side(0.0, NAN, 0.0))
    assert [c.id for c in one_number_cause(gap, side(-1.0, -2.0, -0.5))] == ["missing-logprobs"]
