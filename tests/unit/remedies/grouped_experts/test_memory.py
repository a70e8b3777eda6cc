"""The closed formulas against the tensors that torch saves, and the published 180 GiB."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mismatch_lab.remedies.grouped_experts.bench.allocations import Allocations
from mismatch_lab.remedies.grouped_experts.bench.layer import Setting, choose, make_layer
from mismatch_lab.remedies.grouped_experts.bench.ways import WAYS, register_ways
from mismatch_lab.remedies.grouped_experts.memory import (
    GIB,
    GPT_OSS_20B,
    GPT_OSS_120B,
    LayerShape,
    kept_bytes,
    largest_bytes,
    repeated_bytes,
)

SHAPES = [LayerShape(16, 24, 4, 2, 1, 2), LayerShape(40, 8, 6, 3, 1, 4)]


def saved_bytes(module: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Storages that autograd keeps of a call, but for parameters and inputs."""
    known = {x.untyped_storage().data_ptr() for x in (*module.parameters(), *inputs)}
    found: dict[int, int] = {}
    alive = []  # a storage that went would give its address to another

    def pack(x: Tensor) -> Tensor:
        alive.append(x)
        storage = x.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = module(*inputs)
    del out
    return sum(found.values())


def even(shape: LayerShape, tokens: int, setting: Setting) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of experts that are all chosen equally often."""
    slots = torch.arange(tokens * shape.top_k) % shape.experts
    hidden = torch.randn(tokens, shape.hidden, dtype=setting.dtype, requires_grad=True)
    routing = torch.rand(tokens, shape.top_k, dtype=setting.dtype, requires_grad=True)
    return hidden, slots.view(tokens, shape.top_k), routing


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", WAYS)
def test_kept_is_what_autograd_saves(way: str, shape: LayerShape) -> None:
    setting = Setting(shape, torch.bfloat16 if shape.number_bytes == 2 else torch.float32, "cpu")
    experts = make_layer(setting).eval().experts
    register_ways()
    experts.config._experts_implementation = way
    for tokens in (12, 48):
        inputs = even(shape, tokens, setting)
        assert saved_bytes(experts, inputs) == kept_bytes(way, shape, tokens)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", WAYS)
def test_the_largest_tensor_is_the_largest_allocation(way: str, shape: LayerShape) -> None:
    setting = Setting(shape, torch.bfloat16 if shape.number_bytes == 2 else torch.float32, "cpu")
    experts = make_layer(setting).eval().experts
    register_ways()
    experts.config._experts_implementation = way
    inputs = even(shape, 48, setting)
    with Allocations() as seen, torch.no_grad():
        experts(*inputs)
    assert seen.largest == largest_bytes(way, shape, 48)


def test_repeat_looks_at_the_mode_and_the_others_do_not() -> None:
    shape = SHAPES[0]
    setting = Setting(shape, torch.bfloat16, "cpu")
    layer = make_layer(setting)
    register_ways()
    inputs = even(shape, 48, setting)
    for way in WAYS:
        choose(layer, way)
        train, evaluated = (saved_bytes(layer.train(m).experts, inputs) for m in (True, False))
        assert (train != evaluated) == (way == "repeat")


def test_the_published_180_gib() -> None:
    """2 bytes · 32 experts · 2880 · 2^20 tokens = 180 · 2^30; 128 experts need a quarter of it."""
    assert repeated_bytes(GPT_OSS_20B, 2**20) == 180 * GIB
    assert repeated_bytes(GPT_OSS_120B, 2**18) == 180 * GIB
    # One sequence of 8k and 16k: 24576 · 184320 bytes.
    assert repeated_bytes(GPT_OSS_20B, 24576) / GIB == 4.21875
    # A copy of [2880, 5760] numbers for each of 98304 slots.
    assert largest_bytes("batched_mm", GPT_OSS_20B, 24576) / GIB == 3037.5


def test_what_is_counted_on_a_cpu() -> None:
    with Allocations() as seen:
        a = torch.zeros(100, dtype=torch.float64)  # 800 bytes
        b = a.view(10, 10) + 1  # the view is a's; another 800
        del a
        c = b * 2  # 800 in place of a
    assert (seen.peak, seen.largest, seen.now) == (1600, 800, 1600)
    del b, c
    assert seen.now == 0
