"""Two captures are paired by index, after their token ids have been found equal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mismatch_lab.captures.align import align
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.errors import AlignmentError

NAN = float("nan")


def with_rows(capture: Capture, sequences: list[list[int]]) -> Capture:
    """The same prompts, and log-probs of -1, for other sequences; all else left out."""
    prompts = capture.rows.prompt_lengths.tolist()[: len(sequences)]
    marks = [[i >= p for i in range(len(s))] for s, p in zip(sequences, prompts, strict=True)]
    rows = Rows.build(sequences, prompts, marks)
    return Capture(rows, np.full(rows.n_tokens, -1.0, np.float32))


def test_sampled_tokens_are_paired(capture: Capture) -> None:
    # Sampled: token 2 of row 0, tokens 4 and 5 of row 1.
    train = replace(capture, logp=np.array([NAN, -9, -1.25, NAN, -1.5, -2.5], np.float32))
    pairs = align(capture, train)
    assert pairs.flat.tolist() == [2, 4, 5]
    assert pairs.row_ids.tolist() == [0, 1, 1]
    assert pairs.positions.tolist() == [0, 0, 1]
    assert pairs.logp_a.tolist() == [-1.0, -1.5, -2.0]
    assert pairs.logp_b.tolist() == [-1.25, -1.5, -2.5]


def test_positions_count_from_the_first_sampled_token_over_a_user_turn() -> None:
    marks = [[False, True, False, True], [False, False, False, False], [False, False, True, True]]
    rows = Rows.build([[1, 2, 3, 4]] * 3, [1, 4, 2], marks)
    one = Capture(rows, np.where(rows.sampled, -1.0, NAN).astype(np.float32))
    pairs = align(one, one)
    assert pairs.flat.tolist() == [1, 3, 10, 11]
    assert pairs.row_ids.tolist() == [0, 0, 2, 2]
    assert pairs.positions.tolist() == [0, 2, 0, 1]


def test_only_probes_of_both_sides_are_paired(capture: Capture) -> None:
    # infer probes 2 4, train probes 1 4 5: token 4 is the second of either.
    train = replace(capture, probe_positions=np.array([1, 4, 5]), probe_logp=None, hidden={})
    probes_infer, probes_train = align(capture, train).probes
    assert (probes_infer.tolist(), probes_train.tolist()) == ([1], [1])


def test_a_disagreement_names_row_position_and_both_ids(capture: Capture) -> None:
    other = with_rows(capture, [[5, 6, 7], [8, 9, 42]])
    with pytest.raises(AlignmentError, match="Row 1, position 2: token 10 in infer, 42 in train"):
        align(capture, other)


def test_the_first_of_several_disagreements_is_named(capture: Capture) -> None:
    other = with_rows(capture, [[5, 1, 1], [1, 1]])
    with pytest.raises(AlignmentError, match="Row 0, position 1: token 6 in decode, 1 in ref"):
        align(capture, other, ("decode", "ref"))


def test_another_number_of_rows_is_named(capture: Capture) -> None:
    with pytest.raises(AlignmentError, match="infer has 2 rows and train has 1"):
        align(capture, with_rows(capture, [[5, 6, 7]]))


def test_another_length_is_named_with_where_they_agree(capture: Capture) -> None:
    other = with_rows(capture, [[5, 6, 7], [8, 9]])
    with pytest.raises(
        AlignmentError, match="Row 1: 3 tokens in infer, 2 in train; they agree up to position 1"
    ):
        align(capture, other)


def test_other_sampled_marks_are_named(capture: Capture) -> None:
    marks = np.array([False, False, True, False, False, True])
    other = replace(capture, rows=replace(capture.rows, sampled=marks))
    with pytest.raises(AlignmentError, match="Row 1: infer and train disagree on which tokens"):
        align(capture, other)
