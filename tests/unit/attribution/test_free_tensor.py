"""Which tensor explains an engine that shows none: who stands out, and what is said otherwise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from builders import NAN, rows_of

from mismatch_lab.attribution.free_tensor import (
    FreeTensor,
    candidates,
    held_out_error,
    named,
    said_in,
)

ROWS = rows_of(3, 3, 3, 3, 3)


def test_experts_are_one_tensor_and_a_tied_head_is_none() -> None:
    layer = "model.layers.0.mlp.experts"
    stored = [
        "model.embed_tokens.weight",
        f"{layer}.0.gate_proj.weight",
        f"{layer}.0.up_proj.weight",
        f"{layer}.0.down_proj.weight",
        f"{layer}.1.down_proj.weight",
        "lm_head.weight",
    ]
    apart = ["model.embed_tokens.weight", f"{layer}.gate_up_proj", f"{layer}.down_proj"]
    assert candidates(stored, tied=True) == apart
    assert candidates(stored, tied=False) == [*apart, "lm_head.weight"]


def test_an_engine_that_was_not_asked_again_says_what_it_sampled(tmp_path: Path) -> None:
    (tmp_path / "decode").mkdir()  # all that a record has of it
    assert said_in(tmp_path, "infer") == tmp_path / "decode"
    (tmp_path / "prefill").mkdir()
    assert said_in(tmp_path, "infer") == tmp_path / "prefill"


def test_rows_that_a_fit_saw_do_not_count() -> None:
    # Of five rows the fourth is held out: tokens 9 to 11, of which the first is the prompt.
    said, expected = np.zeros(15), np.full(15, 9.0)
    expected[9:12] = [7.0, 0.5, 1.5]
    assert held_out_error(said, expected, ROWS) == 1.0  # (0.5 + 1.5) / 2
    expected[10] = NAN
    assert held_out_error(said, expected, ROWS) == 1.5
    assert math.isnan(held_out_error(said[:9], expected[:9], rows_of(3, 3, 3)))


def test_the_tensor_that_stands_out_is_named() -> None:
    found = [FreeTensor("b", 0.1), FreeTensor("c", 0.2), FreeTensor("a", 0.24)]
    cause, note = named(found, 0.25, ROWS, 30)
    assert cause is not None
    assert note == ""
    # 1 - 0.1 / 0.25 = 0.6; 0.2 + 0.8 * 0.6 = 0.68; the next is c: 1 - 0.2 / 0.25 = 0.2
    assert (cause.id, cause.side, cause.location) == ("stale-tensor", "infer", "b")
    assert cause.confidence == pytest.approx(0.68)
    assert [seen.value for seen in cause.evidence] == pytest.approx([0.6, 0.2])
    (seen,) = cause.confirmed_by
    assert (seen.before, seen.after, seen.by) == (0.25, 0.1, "unseen rows")
    assert "1 rows" in seen.experiment
    assert "Of 30" in cause.why


@pytest.mark.parametrize(
    ("best", "second"),
    # 0.18 / 0.2 = 0.9 of what the next leaves; 1 - 0.19 / 0.25 = 0.24 of the error.
    [(0.18, 0.2), (0.19, 0.4)],
)
def test_a_tensor_that_does_not_stand_out_is_only_said_to_come_nearest(
    best: float, second: float
) -> None:
    cause, note = named([FreeTensor("b", best), FreeTensor("a", second)], 0.25, ROWS, 2)
    assert cause is None
    assert "b comes nearest" in note


def test_nothing_is_said_of_one_tensor_alone() -> None:
    assert named([FreeTensor("b", 0.1)], 0.25, ROWS, 1) == (None, "")
