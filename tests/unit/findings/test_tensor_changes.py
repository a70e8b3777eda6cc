"""How much a tensor changed, and by what rank, on checkpoints written here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mismatch_lab.checkpoints.tensors import check_same_tensors, stored_tensors
from mismatch_lab.errors import InputError
from mismatch_lab.findings.tensor_changes import Change, changed_tensors, low_rank, together

RANDOM = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def bfloat16(values: np.ndarray) -> np.ndarray:
    """Upper halves, rounded to nearest."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def checkpoint(folder: Path, tensors: dict[str, np.ndarray], kind: str = "F32") -> str:
    """A folder with config.json and one file, written by the format's description."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    header, body = {}, b""
    for name, values in tensors.items():
        data = (bfloat16(values) if kind == "BF16" else values.astype(np.float32)).tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    size = len(text).to_bytes(8, "little")
    (folder / "model.safetensors").write_bytes(size + text + body)
    return str(folder)


def test_only_tensors_that_differ_are_named_with_the_size_of_their_change(tmp_path: Path) -> None:
    same, ones = normal(4, 4), np.ones((3, 4), np.float32)
    before = checkpoint(tmp_path / "a", {"same": same, "w": ones, "zero": np.zeros(2)})
    after = checkpoint(tmp_path / "b", {"same": same, "w": 1.5 * ones, "zero": np.ones(2)})
    changes = changed_tensors(before, after)
    assert list(changes) == ["w", "zero"]
    assert changes["w"].relative == pytest.approx(0.5)
    assert changes["zero"].relative == np.inf


@pytest.mark.parametrize("kind", ["F32", "BF16"])
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_an_adapter_merged_into_a_matrix_is_of_its_rank(
    tmp_path: Path, kind: str, rank: int
) -> None:
    # Merging rounds the sum: in bfloat16 every weight of size 1 errs by up to 0.004, and the
    # adapter's part is 0.1.
    weight = normal(96, 128)
    adapter = 0.1 / np.sqrt(rank) * normal(96, rank) @ normal(rank, 128)
    before = checkpoint(tmp_path / "a", {"w": weight}, kind)
    after = checkpoint(tmp_path / "b", {"w": weight + adapter}, kind)
    assert changed_tensors(before, after)["w"].rank == rank


@pytest.mark.parametrize("kind", ["F32", "BF16"])
@pytest.mark.parametrize("size", [0.5, 0.1, 0.01, 0.003])
def test_an_ordinary_update_is_of_no_low_rank(tmp_path: Path, kind: str, size: float) -> None:
    weight = normal(96, 128)
    before = checkpoint(tmp_path / "a", {"w": weight}, kind)
    after = checkpoint(tmp_path / "b", {"w": weight + size * normal(96, 128)}, kind)
    assert changed_tensors(before, after)["w"].rank is None


def test_a_quarter_of_the_smaller_side_is_no_longer_low() -> None:
    assert low_rank(normal(64, 16) @ normal(16, 80), 0.0) == 16
    assert low_rank(normal(64, 17) @ normal(17, 80), 0.0) is None


def test_fused_experts_are_of_low_rank_only_if_each_is(tmp_path: Path) -> None:
    weight = normal(3, 64, 64)
    each = np.stack([normal(64, 2) @ normal(2, 64) for _ in range(3)])
    mixed = np.concatenate([each[:2], normal(1, 64, 64)])
    before = checkpoint(tmp_path / "a", {"each": weight, "mixed": weight})
    after = checkpoint(tmp_path / "b", {"each": weight + each, "mixed": weight + mixed})
    changes = changed_tensors(before, after)
    assert (changes["each"].rank, changes["mixed"].rank) == (2, None)


def test_vectors_have_no_rank(tmp_path: Path) -> None:
    before = checkpoint(tmp_path / "a", {"norm": np.ones(64)})
    after = checkpoint(tmp_path / "b", {"norm": 2 * np.ones(64)})
    assert changed_tensors(before, after)["norm"] == Change(1.0, None)


def test_several_tensors_together_change_by_the_largest() -> None:
    low = [Change(0.1, 2), Change(0.3, 4)]
    assert together(low) == Change(0.3, 4)
    assert together([*low, Change(0.2, None)]) == Change(0.3, None)


def test_another_architecture_is_a_clear_error(tmp_path: Path) -> None:
    one = checkpoint(tmp_path / "a", {"w": normal(2, 2)})
    wider = checkpoint(tmp_path / "b", {"w": normal(2, 3)})
    more = checkpoint(tmp_path / "c", {"w": normal(2, 2), "x": normal(2)})
    with pytest.raises(InputError, match=r"w has shape \(2, 2\) in .*a and \(2, 3\) in .*b"):
        check_same_tensors(one, wider)
    with pytest.raises(InputError, match=r"only .*c has x"):
        check_same_tensors(one, more)
    check_same_tensors(one, one)


def test_a_folder_that_is_none_or_damaged_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        stored_tensors(str(tmp_path / "nowhere"))
    folder = tmp_path / "a"
    checkpoint(folder, {"w": normal(4, 4)})
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-8])
    with pytest.raises(InputError, match="cut short at w"):
        stored_tensors(str(folder))
    (folder / "model.safetensors").write_bytes(b"\xff" * 32)
    with pytest.raises(InputError, match="not a safetensors file"):
        stored_tensors(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"holds no \*.safetensors"):
        stored_tensors(str(folder))
