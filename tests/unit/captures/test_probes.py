"""Probe positions follow from the rows alone."""

from __future__ import annotations

import numpy as np
import pytest

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.captures.probes import cut_rows, probe_positions, tap_rows, tapped_rows
from mismatch_lab.schema import CapturePlan

# Rows of 4, 6, 1 and 6 tokens at offsets 0, 4, 10, 11; prompts of 2, 3, 1 and 2.
LENGTHS, PROMPTS = [4, 6, 1, 6], [2, 3, 1, 2]


def make_rows() -> Rows:
    sequences = [list(range(n)) for n in LENGTHS]
    marks = [[i >= p for i in range(n)] for n, p in zip(LENGTHS, PROMPTS, strict=True)]
    return Rows.build(sequences, PROMPTS, marks)


# Sampled tokens, flat: 2 3 | 7 8 9 | - | 13 14 15 16
SAMPLED = [2, 3, 7, 8, 9, 13, 14, 15, 16]


def test_all_sampled_tokens_are_probed_where_there_are_few() -> None:
    assert probe_positions(make_rows(), CapturePlan(), taps=False).tolist() == SAMPLED


def test_probes_are_spread_over_the_sampled_tokens() -> None:
    # Of 9 sampled tokens, ranks 0, 4 and 8.
    plan = CapturePlan(probe_positions=3)
    assert probe_positions(make_rows(), plan, taps=False).tolist() == [2, 9, 16]


def test_no_probes_where_none_are_asked_for() -> None:
    plan = CapturePlan(probe_positions=0)
    assert probe_positions(make_rows(), plan, taps=False).tolist() == []


def test_the_longest_rows_are_tapped_the_first_of_equals_first() -> None:
    assert tap_rows(make_rows(), CapturePlan(tap_rows=1)) == (1,)
    assert tap_rows(make_rows(), CapturePlan(tap_rows=2)) == (1, 3)
    # The row of one token has nothing to predict.
    assert tap_rows(make_rows(), CapturePlan(tap_rows=9)) == (0, 1, 3)


def test_rows_that_are_recorded_whole_come_before_longer_ones() -> None:
    """Of 4, 6, 1 and 6 tokens with room for 5: the row of 4, then one of 6, which is cut."""
    one, two = (CapturePlan(tap_rows=n, tap_tokens=5) for n in (1, 2))
    assert tap_rows(make_rows(), one) == (0,)
    assert cut_rows(make_rows(), one) == ()
    assert tap_rows(make_rows(), two) == (0, 1)
    assert cut_rows(make_rows(), two) == (1,)


@pytest.mark.parametrize(
    ("tap_tokens", "positions"),
    [
        (192, [2, 3, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16]),  # rows 1 and 3
        (3, [1, 2, 5, 6, 13, 14, 15, 16]),  # rows 0 and 1, of which three tokens are recorded
    ],
)
def test_a_tapped_row_is_probed_from_its_second_token_without_a_gap(
    tap_tokens: int, positions: list[int]
) -> None:
    plan = CapturePlan(probe_positions=9, tap_rows=2, tap_tokens=tap_tokens)
    assert probe_positions(make_rows(), plan, taps=True).tolist() == positions


def test_no_probe_is_a_first_token_and_they_ascend() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        lengths = rng.integers(1, 9, 6)
        prompts = [int(rng.integers(1, n + 1)) for n in lengths]
        rows = Rows.build(
            [[0] * n for n in lengths],
            prompts,
            [[i >= p for i in range(n)] for n, p in zip(lengths, prompts, strict=True)],
        )
        plan = CapturePlan(probe_positions=4, tap_rows=2, tap_tokens=4)
        positions = probe_positions(rows, plan, taps=True)
        assert not set(positions.tolist()) & set(rows.row_offsets[:-1].tolist())
        assert (np.diff(positions) > 0).all()
        np.testing.assert_array_equal(positions, probe_positions(rows, plan, taps=True))


def test_rows_whose_hidden_states_can_be_fed_to_another() -> None:
    """Rows of 3, 3 and 4 tokens: whole; from the third token on; and with a gap."""
    logp = np.full(10, -1.0, np.float32)
    rows = Rows.build(
        [[1, 2, 3], [1, 2, 3], [1, 2, 3, 4]],
        [1] * 3,
        [[False, True, True]] * 2 + [[False] + [True] * 3],
    )
    at = np.array([1, 2, 5, 7, 9])
    found = Capture(rows, logp, at, hidden={"model.norm": np.ones((5, 2), np.float32)})
    assert tapped_rows(found) == (0,)
    unseen = np.array([[1.0], [np.nan], [1.0], [1.0], [1.0]], np.float32)
    assert tapped_rows(Capture(rows, logp, at, hidden={"model.norm": unseen})) == ()
    assert tapped_rows(Capture(rows, logp, at)) == ()
