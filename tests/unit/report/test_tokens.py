import math

import numpy as np
import pytest

from mismatch_lab.captures.align import align
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.report.token_details import flipped_layers
from mismatch_lab.report.tokens import TokenShelf, level_class, percents, turns_of
from mismatch_lab.report.viewer import WORST_ROWS, row_views

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


def test_rows_come_with_the_largest_delta_first() -> None:
    nan = math.nan
    # Row 0: 0.5 and 0.25, mean 0.375; row 1: -0.625 and 0, mean 0.3125, which prints as 0.312.
    made = shelf([nan, nan, -1, -1, nan, -1, -1], [nan, nan, -1.5, -1.25, nan, -1.625, -1])
    views = row_views(made)
    assert [view.excerpt.row for view in views] == [1, 0]
    assert [view.largest for view in views] == ["Δ −0.625", "Δ −0.500"]
    assert views[0].facts == [("mean |Δ|", "0.312"), ("tokens", "2")]
    assert made.whole(0, "").delta == 0.375


def test_a_row_without_a_log_prob_on_one_side_comes_first() -> None:
    nan = math.nan
    made = shelf([nan, nan, -1, -1, nan, -1, nan], [nan, nan, -9, -1, nan, -1, -1])
    assert [view.excerpt.row for view in row_views(made)] == [1, 0]
    assert row_views(made)[0].largest == "one side has no log-prob"


def test_both_sides_stand_under_each_token() -> None:
    nan = math.nan
    made = shelf([nan, nan, -math.log(2), 0, nan, -1, nan], [nan, nan, -math.log(4), 0, nan, -1, 0])
    chips = made.whole(0, "").chips
    assert [(c.infer, c.train) for c in chips] == [("", ""), ("", ""), ("50", "25"), ("100", "100")]
    assert percents(nan) == "–"


def test_turns_and_weights_are_marked_where_they_begin() -> None:
    sampled = [False, True, True, False, True, True]
    rows = Rows.build([[1, 2, 3, 4, 5, 6], [7, 8]], [1, 1], [sampled, [False, True]])
    assert turns_of(rows).tolist() == [0, 1, 1, 0, 2, 2, 0, 1]
    logp = np.where(rows.sampled, -1, np.nan).astype(np.float32)
    infer = Capture(rows, logp, versions=np.array([3, 3, 3, 3, 3, 4, 4, 4]))
    train = Capture(rows, logp - 0.5, loss_mask=np.array([0, 1, 0, 0, 1, 1, 0, 0], bool))
    made = TokenShelf(infer, train, align(infer, train))
    marks = [chip.mark for chip in made.whole(0, "").chips]
    assert marks == ["", "turn 1, weights 3", "", "", "turn 2, weights 3", "weights 4"]
    assert [chip.mark for chip in made.whole(1, "").chips] == ["", "weights 4"]
    assert row_views(made)[0].facts == [
        ("mean |Δ|", "0.500"), ("tokens", "4"), ("turn 1", "0.500"), ("turn 2", "0.500"),
        ("weights, engine", "3, 4"), ("in the loss", "3 tokens"),
    ]  # fmt: skip


def test_many_rows_are_the_worst_and_two_typical_ones() -> None:
    count = 40
    rows = Rows.build([[1, 2]] * count, [1] * count, [[False, True]] * count)
    logp = np.where(rows.sampled, -1, np.nan)
    delta = np.repeat(np.arange(count), 2) / 64  # row r is off by r / 64
    infer, train = (Capture(rows, a.astype(np.float32)) for a in (logp, logp - delta))
    views = row_views(TokenShelf(infer, train, align(infer, train)))
    worst = list(range(count - 1, count - 1 - WORST_ROWS, -1))
    assert [view.excerpt.row for view in views] == [*worst, count // 2, 0]
    assert views[-2].excerpt.title == "median mean |Δ|"


def test_of_a_long_row_the_part_is_shown_that_differs_most() -> None:
    length = 2000
    rows = Rows.build([[1] * length], [1], [[False] + [True] * (length - 1)])
    logp = np.where(rows.sampled, -1, np.nan).astype(np.float32)
    other = logp.copy()
    other[1500] = -3
    infer, train = Capture(rows, logp), Capture(rows, other)
    shown = TokenShelf(infer, train, align(infer, train)).whole(0, "")
    assert len(shown.chips) == 400
    assert (shown.cut_before, shown.cut_after) == (1300, 300)
    assert [at for at, chip in enumerate(shown.chips) if chip.focus] == [200]


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
