"""Tensors of two checkpoints, told apart by their bits."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from mismatch_lab.checkpoints.tensors import differing_names

NAN = float("nan")


def checkpoint(folder: Path, **tensors: torch.Tensor) -> str:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file(
        {name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors"
    )
    return str(folder)


def test_bits_differ_where_values_may_compare_as_equal(tmp_path: Path) -> None:
    one = torch.tensor([1.0, 0.0, NAN])
    before = checkpoint(tmp_path / "before", same=one, sign=one, last=one, wider=one)
    signed, last = one.clone(), one.clone()
    signed[1] = -0.0
    last.view(torch.int32)[0] += 1
    after = checkpoint(tmp_path / "after", same=one, sign=signed, last=last, wider=one)
    assert differing_names(before, after) == ("last", "sign")  # and not `same`, for its NaN


def test_another_type_is_a_change_where_the_values_are_others(tmp_path: Path) -> None:
    exact, between = torch.tensor([1.0, -3.5]), torch.tensor([1.0, 1 + 2**-9])
    before = checkpoint(tmp_path / "before", exact=exact, between=between)
    after = checkpoint(
        tmp_path / "after", exact=exact.bfloat16(), between=between.bfloat16()
    )  # bfloat16 has no 1 + 2^-9
    assert differing_names(before, after) == ("between",)


def test_a_checkpoint_that_changed_is_read_again(tmp_path: Path) -> None:
    one, other = torch.zeros(2), torch.ones(2)
    before = checkpoint(tmp_path / "before", v=one, w=one)
    after = checkpoint(tmp_path / "after", v=one, w=other)
    assert differing_names(before, after) == ("w",)
    save_file({"v": other, "w": one}, tmp_path / "after" / "model.safetensors")
    assert differing_names(before, after) == ("v",)
