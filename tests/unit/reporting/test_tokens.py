import math

import numpy as np
import pytest

from mismatch_lab.captures.align import align
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.reporting.token_details import flipped_layers
from mismatch_lab.reporting.tokens import TokenShelf, level_class, typical_rows

ROWS = Rows.build(
    [[1, 2, 3, 4], [5, 6, 7]], [2, 1], [[False, False, True, True], [False, True, True]]
)


def shelf(infer: list[float], train: list[float]) -> TokenShelf:
    sides = [Capture(ROWS, np.array(logp, np.float32)) for logp in (infer, train)]
    return TokenShelf(*sides, align(*sides))


def test_worst_tokens_come_first_and_equal_ones_not_at_all() -> None:
    nan = math.nan
    made = shelf([nan, nan, -1, -1, nan, -1, -1], [nan, nan, -1.25, -1, nan, -0.5, nan])
    # Deltas at flat 2, 3, 5, 6 are -0.25, 0, +0.5, NaN: only two differ.
    worst = made.worst()
    assert [(e.row, e.key, e.delta) for e in worst] == [(1, "5", 0.5), (0, "2", -0.25)]
    assert worst[1].title == "row 0, position 0"
    assert [c.css for c in worst[1].chips] == ["prompt", "prompt", "m2", "zero"]
    assert [c.focus for c in worst[1].chips] == [False, False, True, False]
    assert made.shown == {2, 3, 5, 6}


def test_typical_rows_are_ordered_by_mean_abs_delta() -> None:
    nan = math.nan
    # Row 0: mean of 0.5 and 0.25 is 0.375; row 1: 0.125. Of two, the median is the second.
    made = shelf([nan, nan, -1, -1, nan, -1, -1], [nan, nan, -1.5, -1.25, nan, -1.125, -0.875])
    assert [row for row, _ in typical_rows(made)] == [0, 1]
    assert made.whole(0, "").delta == 0.375


@pytest.mark.parametrize(
    ("delta", "css"),
    [(0.0199, "zero"), (0.02, "p1"), (-0.02, "m1"), (0.1, "p2"), (-0.31, "m3"), (-7.0, "m4"),
     (math.nan, "none"), (math.inf, "none")],
)  # fmt: skip
def test_colour_says_size_and_sign(delta: float, css: str) -> None:
    assert level_class(delta) == css


def test_flipped_layers_compare_sets_and_skip_what_was_not_recorded() -> None:
    infer = np.array([[0, 1], [0, 1], [2, 3], [-1, -1]], np.int16)
    train = np.array([[1, 0], [0, 2], [2, 3], [4, 5]], np.int16)
    # Layer 0 is the same set in another order, 1 differs, 2 is equal, 3 was not recorded.
    assert flipped_layers(infer, train).tolist() == [1]


def test_sides_that_choose_other_numbers_of_experts_choose_other_sets() -> None:
    infer = np.array([[0, 1], [2, 3], [-1, -1]], np.int16)
    train = np.array([[0, 1, 2], [2, 3, 4], [0, 1, 2]], np.int16)
    assert flipped_layers(infer, train).tolist() == [0, 1]
