"""Weights: fingerprints compared across engines that name and fuse tensors differently."""

from __future__ import annotations

import numpy as np
import pytest

from mismatch_lab.findings.weights import compared_tensors, differing_tensors

Moments = dict[str, float]


def moments(tensor: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Moments:
    return {
        "numel": float(tensor.size),
        "sum": float(tensor.sum()),
        "sum_sq": float((tensor**2).sum()),
        "sum_abs": float(np.abs(tensor).sum()),
    }


def tensors(**changed: float) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """A layer as transformers names it; `changed` are factors by the last part of the name."""
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
    made = {name: rng.normal(size=(8, 4)) for name in names}
    assert changed.keys() <= made.keys()
    return {name: tensor * changed.get(name, 1.0) for name, tensor in made.items()}


def as_transformers(**changed: float) -> dict[str, Moments]:
    return {name: moments(tensor) for name, tensor in tensors(**changed).items()}


def as_vllm(experts: str = "experts", attention: str = "attn") -> dict[str, Moments]:
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
    return {name: moments(tensor) for name, tensor in (renamed | fused).items()}


def test_equal_weights_do_not_differ() -> None:
    assert differing_tensors(as_transformers(), as_transformers(), same_dtype=True) == []
    assert compared_tensors(as_transformers(), as_transformers()) == 16  # 21, q k v as 1, gate up


@pytest.mark.parametrize("experts", ["experts", "experts.routed_experts"])
@pytest.mark.parametrize("attention", ["attn", "self_attn"])
def test_fused_and_renamed_tensors_are_the_same_weights(experts: str, attention: str) -> None:
    infer = as_vllm(experts, attention)
    assert differing_tensors(infer, as_transformers(), same_dtype=True) == []
    assert compared_tensors(infer, as_transformers()) == 16  # none fell through


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
    train = as_transformers(**{changed: 1.001})
    assert differing_tensors(as_vllm(), train, same_dtype=True) == [named]


def test_a_tensor_of_another_sign_is_a_change_although_its_size_is_not() -> None:
    train = as_transformers(**{"lm_head.weight": -1.0})
    assert differing_tensors(as_vllm(), train, same_dtype=True) == ["lm_head.weight"]


def test_another_dtype_is_allowed_its_rounding_and_no_more() -> None:
    within = as_transformers(**{"lm_head.weight": 1.004})  # bfloat16 rounds by up to 2^-8 = 0.0039
    beyond = as_transformers(**{"lm_head.weight": 1.02})
    assert differing_tensors(as_vllm(), within, same_dtype=False) == []
    assert differing_tensors(as_vllm(), within, same_dtype=True) == ["lm_head.weight"]
    assert differing_tensors(as_vllm(), beyond, same_dtype=False) == ["lm_head.weight"]


def test_a_tensor_of_nan_is_a_change() -> None:
    train = as_transformers(**{"lm_head.weight": float("nan")})
    assert differing_tensors(as_vllm(), train, same_dtype=True) == ["lm_head.weight"]


def test_tensors_of_one_side_only_are_not_compared() -> None:
    infer, train = as_vllm(), as_transformers()
    infer["model.layers.0.self_attn.attn.k_scale"] = {"sum": 1.0, "sum_sq": 1.0, "sum_abs": 1.0}
    del train["lm_head.weight"]
    assert differing_tensors(infer, train, same_dtype=True) == []
    assert compared_tensors(infer, train) == 15
    assert compared_tensors({}, train) == 0
