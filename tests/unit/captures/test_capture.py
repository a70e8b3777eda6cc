"""Rows and captures whose arrays do not fit together are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mismatch_lab.captures.capture import Capture, Rows, chosen_rows
from mismatch_lab.errors import CaptureError


def test_rows_are_flattened_with_their_offsets(capture: Capture) -> None:
    rows = capture.rows
    assert rows.token_ids.tolist() == [5, 6, 7, 8, 9, 10]
    assert rows.row_offsets.tolist() == [0, 3, 6]
    assert list(rows.spans()) == [(0, 3), (3, 6)]
    assert rows.row_ids().tolist() == [0, 0, 0, 1, 1, 1]
    assert (rows.n_rows, rows.n_tokens) == (2, 6)


@pytest.mark.parametrize(
    ("sequences", "prompts", "sampled", "problem"),
    [
        ([[1, 2]], [0], [[False, True]], "empty or longer"),
        ([[1, 2]], [3], [[False, True]], "empty or longer"),
        ([[1], []], [1, 1], [[False], []], "do not cover"),
        ([[1, 2]], [1], [[True]], "1 sampled marks for 2 tokens"),
        ([[1, 2]], [1, 1], [[False, True]], "2 row offsets for 2 rows"),
        ([], [], [], "1 row offsets for 0 rows"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    sequences: list[list[int]], prompts: list[int], sampled: list[list[bool]], problem: str
) -> None:
    with pytest.raises(CaptureError, match=problem):
        Rows.build(sequences, prompts, sampled)


@pytest.mark.parametrize("position", [0, 3, 6, -1])
def test_a_probe_at_a_first_token_or_outside_is_refused(capture: Capture, position: int) -> None:
    with pytest.raises(CaptureError, match="first token or outside"):
        replace(capture, probe_positions=np.array([2, position])).validate("here")


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("logp", np.zeros(5, np.float32)),
        ("router_topk", np.zeros((5, 1, 1), np.int16)),
        ("router_logits", np.zeros((5, 1, 1), np.float32)),
        ("probe_logp", np.zeros((3, 2), np.float32)),
    ],
)
def test_an_array_of_another_length_is_named(capture: Capture, name: str, array: Any) -> None:
    with pytest.raises(CaptureError, match=f"here: {name} has leading shape"):
        replace(capture, **dict[str, Any]({name: array})).validate("here")


def test_a_tap_of_another_length_is_named(capture: Capture) -> None:
    with pytest.raises(CaptureError, match=r"hidden/model\.norm has leading shape"):
        replace(capture, hidden={"model.norm": np.zeros((3, 3), np.float32)}).validate("here")


@pytest.mark.parametrize("value", [0.5, np.nan, -np.inf])
def test_a_log_prob_that_is_none_can_be_recorded(capture: Capture, value: float) -> None:
    replace(capture, logp=np.full(6, value, np.float32)).validate("here")


def test_chosen_rows_come_in_the_order_asked_for(capture: Capture) -> None:
    turned = chosen_rows(capture, np.array([1, 0]))
    assert turned.rows.token_ids.tolist() == [8, 9, 10, 5, 6, 7]
    assert turned.rows.row_offsets.tolist() == [0, 3, 6]
    assert turned.rows.sampled.tolist() == [*capture.rows.sampled[3:], *capture.rows.sampled[:3]]
    np.testing.assert_array_equal(turned.logp, np.roll(capture.logp, 3))
    second = chosen_rows(capture, np.array([1]))
    assert second.rows.row_offsets.tolist() == [0, 3]
    assert second.rows.prompt_lengths.tolist() == [capture.rows.prompt_lengths[1]]
    turned.validate("turned")


def test_chosen_rows_keep_what_was_recorded_of_their_tokens(capture: Capture) -> None:
    probed = replace(
        capture,
        probe_positions=np.array([1, 4, 5]),
        probe_logp=np.array([[0.0], [-1.0], [-2.0]], np.float32),
        probe_lse=None,
        hidden={"model.norm": np.array([[7.0], [8.0], [9.0]], np.float32)},
        router_topk=None,
        router_logits=np.arange(6, dtype=np.float32).reshape(6, 1, 1),
        versions=np.array([1, 1, 1, 2, 2, 2]),
        loss_mask=np.array([0, 1, 0, 0, 1, 1], bool),
    )
    turned = chosen_rows(probed, np.array([1, 0]))
    assert turned.probe_positions.tolist() == [1, 2, 4]  # tokens 4, 5 and 1 of before
    assert turned.probe_logp is not None
    assert turned.probe_logp.ravel().tolist() == [-1, -2, 0]
    assert turned.hidden["model.norm"].ravel().tolist() == [8, 9, 7]
    assert turned.router_logits is not None
    assert turned.router_logits.ravel().tolist() == [3, 4, 5, 0, 1, 2]
    assert turned.versions is not None
    assert turned.versions.tolist() == [2, 2, 2, 1, 1, 1]
    assert turned.loss_mask is not None
    assert turned.loss_mask.tolist() == [False, True, True, False, True, False]
    turned.validate("turned")


def test_an_answer_begins_behind_what_was_not_sampled() -> None:
    rows = Rows.build(
        [[5, 6, 7, 8, 9], [5, 6]], [1, 1], [[False, True, True, False, True], [False, True]]
    )
    # Row 0: prompt at 0, an answer from 1 on, the user at 3, another from 4 on; row 1 begins at 5.
    assert rows.turn_starts().tolist() == [0, 1, 1, 3, 4, 5, 6]
