"""With whom a second implementation sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.errors import AlignmentError
from mismatch_lab.run.reference_check import compared, definition_of, first_difference
from mismatch_lab.schema import RunSpec, SideSpec

NOISE = 0.01


def capture(logp: float, rows: int = 3) -> Capture:
    """Rows of a prompt token and two answers' tokens, all with one log-prob."""
    made = Rows.build([[1, 2, 3]] * rows, [1] * rows, [[False, True, True]] * rows)
    return Capture(made, np.array([np.nan, logp, logp] * rows, np.float32))


@pytest.mark.parametrize(
    ("definition", "ref", "infer", "outcome"),
    [
        (-1.0, -1.0, -1.5, "agrees"),  # 0 and 0.5
        (-1.0, -1.5, -1.0, "contradicts"),
        (-1.0, -1.5, -1.005, "contradicts"),  # the engine rounds
        (-1.0, -1.0625, -1.5, "agrees"),  # 0.0625 is an eighth of 0.5
        (-1.0, -1.25, -1.5, "undecided"),  # 0.25 is half of it
        (-1.0, -1.5, -1.25, "undecided"),
        (-1.0, -1.005, -1.0, "contradicts"),  # beyond rounding in float32, and the engine exact
        (-1.0, -1.004, -1.003, "undecided"),  # both within the engine's precision
        (-1.0, -1.0, -1.0, "agrees"),
    ],
)
def test_whom_it_is_nearer_to(definition: float, ref: float, infer: float, outcome: str) -> None:
    found = compared(capture(definition), capture(ref), capture(infer), NOISE)
    assert found.outcome == outcome
    assert found.definition_ref_nats == pytest.approx(abs(definition - ref), abs=1e-6)
    assert found.definition_infer_nats == pytest.approx(abs(definition - infer), abs=1e-6)
    assert found.is_open == (outcome == "undecided")


def test_other_tokens_are_not_compared() -> None:
    other = capture(-1.0)
    other.rows.token_ids[1] = 9
    with pytest.raises(AlignmentError, match="2 in definition, 9 in ref"):
        compared(capture(-1.0), other, capture(-1.0), NOISE)


def test_nothing_finite_decides_nothing() -> None:
    assert compared(capture(np.nan), capture(-1.0), capture(-1.0), NOISE).outcome == "undecided"


def test_only_the_rows_that_were_scored_count() -> None:
    ref = capture(-1.0, rows=5)
    ref.logp[9:] = -7.0
    assert compared(capture(-1.0), ref, capture(-1.5, rows=5), NOISE).definition_ref_nats == 0


def test_the_first_module_that_computes_something_else() -> None:
    shape = np.ones((4, 8), np.float32)
    inside = "model.layers.0.self_attn"
    theirs = {"model.layers.0.input_layernorm": shape, inside: shape, "model.layers.0": shape}
    ours = {**theirs, inside: 1.01 * shape, "model.layers.0": 1.001 * shape}
    made = capture(-1.0)
    found = first_difference(replace(made, hidden=theirs), replace(made, hidden=ours))
    assert found == inside
    assert first_difference(replace(made, hidden=theirs), replace(made, hidden=theirs)) is None


def test_the_definition_has_no_implementations_to_choose_from() -> None:
    ref = SideSpec(
        side="ref",
        engine="hf",
        model="m",
        dtype="float32",
        args={"attn_implementation": "eager", "device": "cpu"},
    )
    run = RunSpec.model_construct(ref=ref)
    assert definition_of(run).args == {"device": "cpu"}
    assert definition_of(run).engine == "definition"
