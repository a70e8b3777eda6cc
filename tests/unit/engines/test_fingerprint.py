"""Fingerprints tell weights apart, and add up over stacked tensors."""

from __future__ import annotations

import pytest
import torch

from mismatch_lab.engines.fingerprint import fingerprint_tensors


def test_by_hand() -> None:
    (found,) = fingerprint_tensors({"w": torch.tensor([[1.0, -2.0], [3.0, 0.5]])}).values()
    assert found == {"numel": 4, "sum": 2.5, "sum_sq": 1 + 4 + 9 + 0.25, "sum_abs": 6.5}


def test_a_stack_has_the_sums_of_its_parts() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(n, 7, generator=generator).bfloat16() for n in (6, 2, 2)]
    found = fingerprint_tensors({"q": parts[0], "k": parts[1], "v": parts[2]})
    (fused,) = fingerprint_tensors({"qkv": torch.cat(parts)}).values()
    for moment, value in fused.items():
        assert value == pytest.approx(sum(found[name][moment] for name in "qkv"), rel=1e-12)


def test_order_and_sign_of_one_value_matter_as_they_should() -> None:
    weight = torch.arange(1.0, 7.0)
    one, permuted, flipped = fingerprint_tensors(
        {"a": weight, "b": weight.flip(0), "c": weight * torch.tensor([1, 1, 1, 1, 1, -1])}
    ).values()
    assert one == permuted  # repacking for a kernel changes nothing
    assert flipped["sum"] == one["sum"] - 12
    assert flipped["sum_abs"] == one["sum_abs"]


def test_only_real_floating_point_tensors_have_one() -> None:
    tensors = {"ids": torch.arange(3), "meta": torch.empty(3, device="meta")}
    assert fingerprint_tensors(tensors) == {}
