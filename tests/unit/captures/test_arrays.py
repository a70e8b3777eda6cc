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
    ("versions", "loss_mask"),
    [
        ([[9, 9, 3, 3, 9], [9, 4, 4, 9, 9]], [[0, 0, 1, 0, 9], [0, 1, 1, 9, 9]]),  # each token
        ([3, 4], [[0, 0, 1, 0, 9], [0, 1, 1, 9, 9]]),  # each row
    ],
)
def test_versions_and_loss_masks_of_tokens_or_of_rows(versions: Any, loss_mask: Any) -> None:
    found = capture_from_arrays(IDS, LOGP, MASK, versions=versions, loss_mask=loss_mask)
    assert found.versions is not None
    assert found.loss_mask is not None
    sampled = found.rows.sampled
    assert found.versions[sampled].tolist() == [3, 3, 4, 4]
    assert found.loss_mask[sampled].tolist() == [True, False, True, True]


def test_one_version_is_that_of_all_tokens() -> None:
    found = capture_from_arrays(IDS, LOGP, MASK, versions=5)
    assert found.versions is not None
    assert found.versions.tolist() == [5] * 7
    assert found.loss_mask is None


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"versions": [1, 2, 3]}, "versions has shape [3], for 2 rows"),
        ({"versions": [1.5, 2]}, "versions holds numbers that are not whole"),
        ({"loss_mask": [[1, 0]]}, "loss_mask has shape [1, 2]"),
    ],
)
def test_versions_and_loss_masks_that_do_not_fit(more: dict[str, Any], says: str) -> None:
    with pytest.raises(MismatchLabError) as error:
        capture_from_arrays(IDS, LOGP, MASK, **more)
    assert says in error.value.problem


def test_each_side_has_its_own_versions_in_a_file(tmp_path: Path) -> None:
    both = {"token_ids": IDS, "mask": MASK, "logp_infer": LOGP, "logp_train": LOGP - 1}
    np.savez(tmp_path / "a.npz", **both, version_infer=[3, 4], version_train=5, loss_mask=MASK)
    lines = ["row,token_id,sampled,logp_infer,logp_train,version_infer,version_train,loss_mask"]
    lines += ["0,5,0,,,3,5,0", "0,6,0,,,3,5,0", "0,7,1,-1,-2,3,5,1", "0,8,1,-2,-3,3,5,1"]
    lines += ["3,5,0,,,4,5,0", "3,9,1,-3,-4,4,5,1", "3,4,1,-4,-5,4,5,1"]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    for name in ("a.npz", "a.csv"):
        found = read_arrays(tmp_path / name)
        infer, train = found["logp_infer"], found["logp_train"]
        assert infer.versions is not None
        assert train.versions is not None
        assert infer.versions.tolist() == [3] * 4 + [4] * 3
        assert train.versions.tolist() == [5] * 7
        assert infer.loss_mask is not None
        assert infer.loss_mask.tolist() == infer.rows.sampled.tolist()


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


@pytest.mark.parametrize("nested", [True, False])
def test_parquet_holds_the_same_in_both_layouts(tmp_path: Path, nested: bool) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    whole = capture_from_arrays(IDS, LOGP, MASK)
    starts = list(whole.rows.spans())
    flat = {
        "token_id": whole.rows.token_ids.tolist(),
        "sampled": whole.rows.sampled.tolist(),
        "logp_infer": [None if np.isnan(v) else v for v in whole.logp.tolist()],
        "logp_train": [None if np.isnan(v) else v - 1 for v in whole.logp.tolist()],
    }
    lists = {name: [values[a:b] for a, b in starts] for name, values in flat.items()}
    rows = {"token_ids": lists["token_id"], "mask": lists["sampled"]}
    rows |= {name: lists[name] for name in ("logp_infer", "logp_train")}
    table = rows if nested else {"row": whole.rows.row_ids().tolist(), **flat}
    parquet.write_table(pa.table(table), tmp_path / "both.parquet")
    found = read_arrays(tmp_path / "both.parquet")
    assert found["logp_infer"].rows.token_ids.tolist() == whole.rows.token_ids.tolist()
    assert np.array_equal(found["logp_infer"].logp, whole.logp, equal_nan=True)
    assert (
        found["logp_train"].logp[whole.rows.sampled] == whole.logp[whole.rows.sampled] - 1
    ).all()


def test_what_is_no_parquet_is_said(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(MismatchLabError, match="is no parquet"):
        read_arrays(tmp_path / "x.parquet")


def test_how_the_trainer_packed_is_of_its_side_alone(tmp_path: Path) -> None:
    both = {"token_ids": IDS, "mask": MASK, "logp_infer": LOGP, "logp_train": LOGP - 1}
    np.savez(tmp_path / "both.npz", **both, packed_rows=[3, 3], packed_places=[1, 0])
    found = read_arrays(tmp_path / "both.npz")
    assert found["logp_infer"].packs is None
    packs = found["logp_train"].packs
    assert packs is not None
    assert packs.tolist() == [[3, 1], [3, 0]]
    np.savez(tmp_path / "half.npz", **both, packed_places=[1, 0])
    with pytest.raises(MismatchLabError, match="packed_places and no packed_rows"):
        read_arrays(tmp_path / "half.npz")


def test_a_table_says_it_in_every_line_of_a_row(tmp_path: Path) -> None:
    lines = ["row,token_id,sampled,logp,packed_rows"]
    lines += ["0,5,0,,4", "0,6,1,-1,4", "1,5,0,,4", "1,9,1,-3,4"]
    (tmp_path / "one.csv").write_text("\n".join(lines) + "\n")
    packs = read_arrays(tmp_path / "one.csv")["logp"].packs
    assert packs is not None
    assert packs.tolist() == [[4, 0], [4, 1]]
    (tmp_path / "two.csv").write_text("\n".join([*lines[:-1], "1,9,1,-3,5"]) + "\n")
    with pytest.raises(MismatchLabError, match="packed_rows is not the same throughout a row"):
        read_arrays(tmp_path / "two.csv")
