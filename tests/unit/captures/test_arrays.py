"""Arrays of a notebook as captures, by hand; and what is wrong with others, said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mismatch_lab.captures.arrays import capture_from_arrays, read_arrays
from mismatch_lab.cli import app
from mismatch_lab.errors import MismatchLabError

IDS = np.array([[5, 6, 7, 8, 0], [5, 9, 4, 0, 0]])
LOGP = np.array([[0, 0, -1.0, -2.0, 9], [0, -3.0, -4.0, 9, 9]])
MASK = np.array([[0, 0, 1, 1, 0], [0, 1, 1, 0, 0]])


def test_padded_arrays_become_rows_without_the_padding() -> None:
    found = capture_from_arrays(IDS, LOGP, MASK)
    assert found.rows.token_ids.tolist() == [5, 6, 7, 8, 5, 9, 4]
    assert found.rows.row_offsets.tolist() == [0, 4, 7]
    assert found.rows.prompt_lengths.tolist() == [2, 1]
    assert found.logp[found.rows.sampled].tolist() == [-1, -2, -3, -4]
    assert np.isnan(found.logp[~found.rows.sampled]).all()


def test_left_padding_goes_where_attention_says_so() -> None:
    ids, logp, mask = (np.flip(a, axis=1).copy() for a in (IDS, LOGP, MASK))
    ids = np.array([[0, 5, 6, 7, 8], [0, 0, 5, 9, 4]])
    logp = np.array([[9, 0, 0, -1.0, -2.0], [9, 9, 0, -3.0, -4.0]])
    mask = np.array([[0, 0, 0, 1, 1], [0, 0, 0, 1, 1]])
    attention = np.array([[0, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    found = capture_from_arrays(ids, logp, mask, attention_mask=attention)
    whole = capture_from_arrays(IDS, LOGP, MASK)
    assert found.rows.token_ids.tolist() == whole.rows.token_ids.tolist()
    assert found.rows.prompt_lengths.tolist() == whole.rows.prompt_lengths.tolist()


def test_a_turn_that_was_not_sampled_stays_in_its_row() -> None:
    found = capture_from_arrays([[1, 2, 3, 4]], [[0, -1.0, 0, -2.0]], [[0, 1, 0, 1]])
    assert found.rows.sampled.tolist() == [False, True, False, True]
    assert found.rows.n_tokens == 4


def test_files_hold_the_same(tmp_path: Path) -> None:
    whole = capture_from_arrays(IDS, LOGP, MASK)
    np.savez(tmp_path / "both.npz", token_ids=IDS, mask=MASK, logp_infer=LOGP, logp_train=LOGP - 1)
    lines = ["row,token_id,sampled,logp"]
    lines += ["0,5,0,", "0,6,0,", "0,7,1,-1", "0,8,1,-2", "3,5,0,", "3,9,1,-3", "3,4,1,-4"]
    (tmp_path / "one.csv").write_text("\n".join(lines) + "\n")
    both, one = read_arrays(tmp_path / "both.npz"), read_arrays(tmp_path / "one.csv")
    assert (set(both), set(one)) == ({"logp_infer", "logp_train"}, {"logp"})
    for found in (both["logp_infer"], one["logp"]):
        assert found.rows.token_ids.tolist() == whole.rows.token_ids.tolist()
        assert np.array_equal(found.logp, whole.logp, equal_nan=True)
    assert (both["logp_train"].logp[whole.rows.sampled] == whole.logp[whole.rows.sampled] - 1).all()


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ((IDS, LOGP[:, 1:], MASK), "logp [2, 4]"),
        ((IDS, LOGP, MASK[:1]), "mask [1, 5]"),
        ((IDS * 1.0, LOGP, MASK), "not integers"),
        ((IDS[0], LOGP[0], MASK[0]), "token_ids has 1 axes"),
        ((IDS, LOGP, MASK * 0), "Row 0 has no sampled token"),
        ((IDS, LOGP, np.ones_like(MASK)), "Row 0 begins with a sampled token"),
    ],
)
def test_what_does_not_fit_is_said(arrays: tuple[Any, ...], says: str) -> None:
    with pytest.raises(MismatchLabError) as error:
        capture_from_arrays(*arrays)
    assert says in error.value.problem


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"row,token_id,logp\n0,1,-1\n", "no column sampled"),
        ("a.csv", b"row,token_id,sampled,logp\n", "holds no token"),
        ("a.csv", b"row,token_id,sampled,logp\n0,x,1,-1\n", "invalid literal"),
        ("a.csv", b"row,token_id,sampled,logp\n1,1,0,\n0,2,1,-1\n", "rows do not ascend"),
        ("a.csv", b"\xff\xfe\x00", "is no CSV"),
        ("a.npz", b"PK\x03\x04 not a zip", "is no .npz"),
        ("a.npz", b"", "is no .npz"),
    ],
)
def test_files_that_are_none_are_errors(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MismatchLabError) as error:
        read_arrays(tmp_path / name)
    assert says in error.value.problem


def test_pickles_and_unknown_arrays_are_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", token_ids=np.array([{}], dtype=object))
    np.savez(tmp_path / "u.npz", token_ids=IDS, mask=MASK, logp=LOGP, old_logp=LOGP)
    for name, says in (("p.npz", "no .npz of plain arrays"), ("u.npz", "old_logp")):
        with pytest.raises(MismatchLabError) as error:
            read_arrays(tmp_path / name)
        assert says in error.value.problem


def test_compare_takes_one_file_of_both_sides_or_two(tmp_path: Path) -> None:
    shared = {"token_ids": IDS, "mask": MASK}
    np.savez(tmp_path / "infer.npz", logp=LOGP, **shared)
    np.savez(tmp_path / "train.npz", logp=LOGP + 0.5, **shared)
    np.savez(tmp_path / "both.npz", logp_infer=LOGP, logp_train=LOGP + 0.5, **shared)
    files = ([tmp_path / "infer.npz", tmp_path / "train.npz"], [tmp_path / "both.npz"])
    for given in files:
        done = CliRunner().invoke(app, ["compare", *map(str, given), "--json"])
        assert done.exit_code == 0, done.output
        size = json.loads(done.stdout)["edges"]["decode_train"]["abs_delta_mean"]
        assert (size["value"], size["n"]) == (0.5, 4)
    for given in ([tmp_path / "infer.npz"], [tmp_path / "both.npz", tmp_path / "train.npz"]):
        with pytest.raises(MismatchLabError, match="side"):
            app(["compare", *map(str, given)], standalone_mode=False)
