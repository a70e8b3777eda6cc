"""Weights: fingerprints compared across engines that name and fuse tensors differently."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from mismatch_lab.captures.fingerprint import Fingerprint, fingerprint_array
from mismatch_lab.findings.weights import (
    compare_weights,
    compared_tensors,
    differing_tensors,
    tensors_unlike,
)

Tensors = dict[str, NDArray[np.float32]]


def tensors(**changed: float) -> Tensors:
    """Layers as transformers names them; `changed` are factors by name."""
    rng = np.random.default_rng(0)
    names = (
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.self_attn.v_proj.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.k_proj.bias",
        "model.layers.0.self_attn.v_proj.bias",
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.0.self_attn.sinks",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.mlp.router.weight",
        "model.layers.0.mlp.router.bias",
        "model.layers.0.mlp.experts.gate_up_proj",
        "model.layers.0.mlp.experts.gate_up_proj_bias",
        "model.layers.0.mlp.experts.down_proj",
        "model.layers.0.mlp.experts.down_proj_bias",
        "model.layers.1.mlp.gate_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    )
    made = {name: rng.normal(size=(8, 4)).astype(np.float32) for name in names}
    assert changed.keys() <= made.keys()
    return {name: tensor * np.float32(changed.get(name, 1.0)) for name, tensor in made.items()}


def prints(given: Tensors) -> dict[str, Fingerprint]:
    return {name: fingerprint_array(tensor) for name, tensor in given.items()}


def as_transformers(**changed: float) -> dict[str, Fingerprint]:
    return prints(tensors(**changed))


def as_vllm(experts: str = "experts", attention: str = "attn") -> dict[str, Fingerprint]:
    """The same weights, fused and named as vLLM does."""
    t = tensors()
    fused = {}
    for kind in ("weight", "bias"):
        parts = [t.pop(f"model.layers.0.self_attn.{p}_proj.{kind}") for p in "qkv"]
        fused[f"model.layers.0.{attention}.qkv_proj.{kind}"] = np.concatenate(parts)
    parts = [t.pop(f"model.layers.1.mlp.{p}_proj.weight") for p in ("gate", "up")]
    fused["model.layers.1.mlp.gate_up_proj.weight"] = np.concatenate(parts)
    for theirs, ours in (("gate_up", "w13"), ("down", "w2")):
        stem = "model.layers.0.mlp.experts"
        fused[f"model.layers.0.mlp.{experts}.{ours}_weight"] = t.pop(f"{stem}.{theirs}_proj")
        fused[f"model.layers.0.mlp.{experts}.{ours}_bias"] = t.pop(f"{stem}.{theirs}_proj_bias")
    renamed = {n.replace(".self_attn.", f".{attention}."): a for n, a in t.items()}
    return prints(renamed | fused)


def test_equal_weights_do_not_differ() -> None:
    assert differing_tensors(as_transformers(), as_transformers()) == []
    assert compared_tensors(as_transformers(), as_transformers()) == 16  # 21, q k v as 1, gate up


@pytest.mark.parametrize("experts", ["experts", "experts.routed_experts"])
@pytest.mark.parametrize("attention", ["attn", "self_attn"])
def test_fused_and_renamed_tensors_are_the_same_weights(experts: str, attention: str) -> None:
    infer = as_vllm(experts, attention)
    assert differing_tensors(infer, as_transformers()) == []
    assert compared_tensors(infer, as_transformers()) == 16  # none fell through
    found = compare_weights([infer], as_transformers())
    assert (found.differing, found.unseen) == ((), ())


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.qkv_proj.weight"),
        ("model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.qkv_proj.bias"),
        ("model.layers.0.self_attn.sinks", "model.layers.0.self_attn.sinks"),
        ("model.layers.0.mlp.experts.down_proj", "model.layers.0.mlp.experts.w2_weight"),
        ("model.layers.0.mlp.experts.gate_up_proj_bias", "model.layers.0.mlp.experts.w13_bias"),
        ("model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.gate_up_proj.weight"),
        ("model.embed_tokens.weight", "model.embed_tokens.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ],
)
def test_a_changed_tensor_is_named_by_its_fused_name(changed: str, named: str) -> None:
    # 1 + 2^-23: the least that a factor can change, in one or two units in the last place.
    train = as_transformers(**{changed: 1 + 2**-23})
    assert differing_tensors(as_vllm(), train) == [named]


def test_where_the_parts_are_known_only_the_changed_one_is_named() -> None:
    name = "model.layers.0.self_attn.k_proj.weight"
    reference, suspect = as_transformers(), as_transformers(**{name: 1.001})
    assert tensors_unlike(suspect, reference) == (name,)
    # vLLM's fused one tells no more than that one of the three is another.
    stem = "model.layers.0.self_attn"
    assert tensors_unlike(as_vllm(), suspect) == tuple(f"{stem}.{p}_proj.weight" for p in "kqv")


def test_parts_that_change_places_are_a_change() -> None:
    given = tensors()
    k, v = (f"model.layers.0.self_attn.{p}_proj.weight" for p in "kv")
    given[k], given[v] = given[v], given[k]
    assert differing_tensors(as_vllm(), prints(given)) == [
        "model.layers.0.self_attn.qkv_proj.weight"
    ]


def of_experts(order: tuple[int, ...] = (0, 1, 2)) -> tuple[Tensors, Tensors]:
    """(one tensor an expert, the stack of them in some order)."""
    rng = np.random.default_rng(1)
    gate, up, down = (rng.normal(size=(3, 4, 6)).astype(np.float32) for _ in range(3))
    stem, single = "model.layers.0.mlp.experts", {}
    for e in range(3):
        single[f"{stem}.{e}.gate_proj.weight"] = gate[e]
        single[f"{stem}.{e}.up_proj.weight"] = up[e]
        single[f"{stem}.{e}.down_proj.weight"] = down[e].T
    both = np.concatenate([gate, up], axis=1)[list(order)]
    stacked = {
        f"{stem}.w13_weight": both,
        f"{stem}.w2_weight": down.transpose(0, 2, 1)[list(order)],
    }
    return single, stacked


def test_experts_one_by_one_are_the_stack_of_them() -> None:
    single, stacked = of_experts()
    found = compare_weights([prints(stacked)], prints(single))
    assert (found.differing, found.unseen) == ((), ())


def test_experts_in_another_order_are_other_weights() -> None:
    single, stacked = of_experts((1, 0, 2))
    assert compare_weights([prints(stacked)], prints(single)).differing == tuple(sorted(single))
    # Where a kernel wants an order of its own, none is known.
    unordered = {n: replace(one, placed=None) for n, one in prints(stacked).items()}
    assert compare_weights([unordered], prints(single)).differing == ()


def test_what_engines_transpose_as_they_load_it_is_the_same() -> None:
    square = np.arange(9, dtype=np.float32).reshape(3, 3)
    one, other = ({"transformer.h.0.attn.c_proj.weight": m} for m in (square, square.T))
    assert differing_tensors(prints(one), prints(other)) == []
    other = {"transformer.h.0.attn.c_proj.weight": 2 * square}
    assert differing_tensors(prints(one), prints(other)) == [
        "model.layers.0.self_attn.c_proj.weight"
    ]


def test_a_tensor_of_nan_is_a_change() -> None:
    train = as_transformers(**{"lm_head.weight": float("nan")})
    assert differing_tensors(as_vllm(), train) == ["lm_head.weight"]


def test_tensors_of_one_side_only_are_not_compared_and_are_named() -> None:
    infer, train = as_vllm(), as_transformers()
    infer["model.layers.0.self_attn.attn.k_scale"] = fingerprint_array(np.ones(1))
    wanted = dict(train)
    del train["lm_head.weight"]
    assert differing_tensors(infer, train) == []
    assert compared_tensors(infer, train) == 15
    assert compared_tensors({}, train) == 0
    assert compare_weights([{}], wanted).unseen == tuple(sorted(wanted))
    del infer["lm_head.weight"]
    assert compare_weights([infer], wanted).unseen == ("lm_head.weight",)


def halves(tensor: NDArray[np.float32]) -> list[dict[str, Fingerprint]]:
    return [prints({"lm_head.weight": part}) for part in np.split(tensor, 2)]


def test_processes_divide_a_tensor_or_each_hold_it() -> None:
    head = tensors()["lm_head.weight"]
    wanted, other = prints({"lm_head.weight": head}), prints({"lm_head.weight": 2 * head})
    zeros = prints({"lm_head.weight": 0 * head})
    for held in (
        halves(head),
        [wanted, wanted],
        halves(head) * 2,  # four processes, two heads: each is there twice
        [wanted, zeros],  # a bias that the other process adds
    ):
        assert compare_weights(held, wanted).differing == ()
    for held in (
        halves(2 * head),
        [wanted, other],
        [halves(head)[0], halves(2 * head)[1]],
        [zeros, zeros],
        halves(head) + halves(2 * head),
    ):
        assert compare_weights(held, wanted).differing == ("lm_head.weight",)
