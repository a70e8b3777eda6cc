"""How sequences lay in packed rows: numbered, checked, drawn whole, and put together again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mismatch_lab.captures.packing import (
    UNKNOWN_PACK,
    drawn,
    packs_from_arrays,
    rebuilt,
    shares_rows,
)
from mismatch_lab.errors import CaptureError

PACKS = packs_from_arrays([7, 2, 7, -1, 2, 7], None, 6)
LENGTHS = np.array([10, 20, 30, 40, 50, 60])


def test_without_places_the_order_is_that_of_the_sequences() -> None:
    assert PACKS.tolist() == [[7, 0], [2, 0], [7, 1], [-1, -1], [2, 1], [7, 2]]


def test_places_that_are_given_count() -> None:
    found = packs_from_arrays([4, 4, -1], [1, 0, 5], 3)
    assert found.tolist() == [[4, 1], [4, 0], [UNKNOWN_PACK, UNKNOWN_PACK]]
    assert rebuilt(found, np.array([3, 3, 3])) == ((1, 0),)


@pytest.mark.parametrize(
    ("rows", "places", "says"),
    [
        ([0, 0], None, r"packed_rows has shape \[2\], for 3 rows"),
        ([0, 0, 0], [0, 1], r"packed_places has shape \[2\]"),
        ([0, 0.5, 1], None, "not whole"),
        ([0, 0, 1], [1, 1, 0], "two sequences lie in one place"),
        ([0, 0, 1], [0, -1, 0], "below 0"),
    ],
)
def test_what_does_not_fit(rows: Any, places: Any, says: str) -> None:
    with pytest.raises(CaptureError, match=says):
        packs_from_arrays(rows, places, 3)


def test_rows_are_put_together_as_far_as_is_known() -> None:
    assert rebuilt(PACKS, LENGTHS) == ((1, 4), (0, 2, 5))
    # 10 + 30 are within 40 tokens, 60 more are not; 20 + 50 are not either.
    assert rebuilt(PACKS, LENGTHS, most_tokens=40) == ((1,), (0, 2))
    # Sequence 2 was left out: what lay behind it saw what nobody recorded.
    assert rebuilt(PACKS[[0, 1, 4, 5]], LENGTHS[[0, 1, 4, 5]]) == ((1, 2), (0,))
    # The first sequence of row 7 was left out.
    assert rebuilt(PACKS[[2, 5]], LENGTHS[[2, 5]]) == ()


def test_a_sequence_that_lay_behind_another() -> None:
    assert shares_rows(PACKS)
    assert not shares_rows(packs_from_arrays([0, 1, 2], None, 3))
    assert not shares_rows(None)


@pytest.mark.parametrize("seed", range(8))
def test_whole_packed_rows_are_drawn(seed: int) -> None:
    # Rows of 3, 2 and 1 sequences: of 4, 3 + 1 can be had or 2 + 1; never a part of one.
    found = drawn(PACKS, 6, 4, seed).tolist()
    assert found in ([0, 2, 3, 5], [1, 3, 4])
    # One that is larger than what is wanted gives its first sequences.
    assert drawn(PACKS[[0, 2, 5]], 3, 2, seed).tolist() == [0, 1]


def test_without_packed_rows_any_are_drawn() -> None:
    found = {tuple(drawn(None, 6, 2, seed).tolist()) for seed in range(40)}
    assert len(found) > 5
    assert all(first < second for first, second in found)
