"""Rows as model inputs: padded, packed with and without walls; rows of 3, 1 and 2 tokens."""

from __future__ import annotations

import pytest
import torch

from mismatch_lab.captures.capture import Rows
from mismatch_lab.engines.torch_batch import Batch, lay_out
from mismatch_lab.schema import Packing

ROWS = Rows.build(
    [[11, 12, 13], [21], [31, 32], [41, 42]],
    [1, 1, 1, 1],
    [[False, True, True], [False], [False, True], [False, True]],
)


def batch(chosen: list[int], packing: Packing) -> Batch:
    return lay_out(ROWS, chosen, packing, torch.device("cpu"))


def test_shorter_rows_are_padded_on_the_right() -> None:
    found = batch([0, 2], "none")
    assert found.ids.tolist() == [[11, 12, 13], [31, 32, 0]]
    assert found.mask is not None
    assert found.mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert found.positions is None
    assert found.places == [(0, 0, 3), (1, 0, 2)]


def test_rows_of_one_length_need_no_mask() -> None:
    found = batch([3, 2], "none")
    assert found.ids.tolist() == [[41, 42], [31, 32]]
    assert found.mask is None


@pytest.mark.parametrize(
    ("packing", "positions", "masked"),
    [
        ("documents", [0, 1, 2, 0, 0, 1], False),
        ("leaky", [0, 1, 2, 3, 4, 5], False),
        ("leaky_restarted", [0, 1, 2, 0, 0, 1], True),
    ],
)
def test_packed_rows_follow_one_another(
    packing: Packing, positions: list[int], masked: bool
) -> None:
    found = batch([0, 1, 2], packing)
    assert found.ids.tolist() == [[11, 12, 13, 21, 31, 32]]
    assert found.positions is not None
    assert found.positions.tolist() == [positions]
    assert found.places == [(0, 0, 3), (0, 3, 4), (0, 4, 6)]
    assert (found.mask is not None) == masked
    assert found.mask is None or bool((found.mask == 1).all())


def test_a_row_alone_is_not_packed() -> None:
    found = batch([2], "leaky")
    assert found.positions is None
    assert found.ids.tolist() == [[31, 32]]
