"""Tokens read as others, by the first layer's input: two rows of three tokens, all tapped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import NAN, answered

from mismatch_lab.attribution.token_reads import FIRST_INPUT, misread_tokens
from mismatch_lab.captures.capture import Capture

GIVEN = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]


def tapped(inputs: list[list[float]]) -> Capture:
    """Inputs at flat positions 0, 1, 3 and 4: those that tokens 1, 2, 4 and 5 came from."""
    base = answered([-1.0, -1.0], [-1.0, -1.0])
    return replace(
        base,
        probe_positions=np.array([1, 2, 4, 5]),
        hidden={FIRST_INPUT: np.array(inputs, np.float32)},
    )


REFERENCE = tapped(GIVEN)


def test_rounding_is_no_misreading() -> None:
    assert misread_tokens(tapped([[1.05, 0.0], *GIVEN[1:]]), REFERENCE) is None


def test_a_prompt_token_read_as_another() -> None:
    found = misread_tokens(tapped([GIVEN[0], GIVEN[1], [0.0, 1.0], GIVEN[3]]), REFERENCE)
    assert found is not None
    assert (found.flat.tolist(), found.in_prompt, found.seen) == ([3], 1.0, 4)


def test_prompt_and_answer() -> None:
    found = misread_tokens(tapped([[0.0, 1.0], [1.0, 0.0], *GIVEN[2:]]), REFERENCE)
    assert found is not None
    assert (found.flat.tolist(), found.in_prompt) == ([0, 1], 0.5)


def test_all_of_them_wrong_is_another_embedding() -> None:
    assert misread_tokens(tapped([[-a, -b] for a, b in GIVEN]), REFERENCE) is None


def test_positions_without_a_hidden_state_are_not_seen() -> None:
    found = misread_tokens(tapped([[0.0, 1.0], [NAN, NAN], *GIVEN[2:]]), REFERENCE)
    assert found is not None
    assert found.seen == 3
    assert found.in_prompt == pytest.approx(1.0)


def test_nothing_can_be_said_without_taps() -> None:
    assert misread_tokens(answered([-1.0]), REFERENCE) is None
    assert misread_tokens(REFERENCE, answered([-1.0])) is None
