"""TF32, by hand and in models: it reaches the products it should, and changes nothing else."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mismatch_lab.interventions import altered, products
from mismatch_lab.interventions.rounding import tf32
from mismatch_lab.schema import Alteration

Tiny = Callable[[str], nn.Module]
Logits = Callable[[nn.Module], Tensor]


def narrowed(model: nn.Module, logits: Logits, name: str) -> Tensor:
    """[2, 24, V] logits of the altered model."""
    with altered(model, (Alteration(name=name, value="tf32"),)):
        return logits(model)


def test_tf32_by_hand() -> None:
    # 10 bits of mantissa: steps of 2**-10 above 1. A half step goes up where it is rounded, also
    # below zero (away from it), and nothing goes up where bits are cut off.
    half, more = 1 + 2**-11, 1 + 2**-10 + 2**-12
    given = torch.tensor([half, -half, more, 0.5, 0.0])
    assert tf32(given).tolist() == [1 + 2**-10, -1 - 2**-10, 1 + 2**-10, 0.5, 0.0]
    assert tf32(given, cut=True).tolist() == [1.0, -1.0, 1 + 2**-10, 0.5, 0.0]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *product(
            ("gpt_oss", "gemma2", "qwen3_moe"),
            ("attention_products", "projection_products", "all_products"),
        ),
        *product(("gpt_oss", "qwen3_moe"), ("expert_products",)),
    ],
)
def test_products_that_keep_all_bits_are_the_models_own(
    tiny: Tiny, logits: Logits, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    model = tiny(kind)
    narrow = narrowed(model, logits, name)
    monkeypatch.setitem(products.FORMS, "tf32", lambda operand: operand)
    exact = narrowed(model, logits, name)
    before = logits(model)
    torch.testing.assert_close(exact, before, rtol=1e-5, atol=2e-5)
    # Operands are off by up to 2**-11: far more than float32's rounding, less than bfloat16's.
    assert 1e-5 < (narrow - before).norm() / before.norm() < 2**-8


@pytest.mark.parametrize("way", ["eager", "grouped_mm", "batched_mm"])
def test_products_of_experts_are_reached_whichever_way_they_run(
    tiny: Tiny, logits: Logits, way: str
) -> None:
    model: Any = deepcopy(tiny("qwen3_moe"))  # it is shared
    model.set_experts_implementation(way)
    narrow = narrowed(model, logits, "expert_products")
    assert (narrow - logits(model)).norm() > 1e-5 * narrow.norm()
