"""Every alteration acts where the model has its part, is undone, and is refused elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mismatch_lab.errors import InputError, NotApplicableError
from mismatch_lab.interventions import ALTERATIONS, altered
from mismatch_lab.schema import Alteration, OptionValue

Tiny = Callable[[str], nn.Module]
Logits = Callable[[nn.Module], Tensor]

ALL = [
    "gpt_oss",
    "llama",
    "plain_llama",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "mixtral",
    "gemma2",
    "gemma3",
]
MOE = ["gpt_oss", "qwen3_moe", "mixtral"]
WINDOWED = ["gpt_oss", "qwen2", "gemma2", "gemma3"]
YARN = ["gpt_oss", "llama"]

WHERE: list[tuple[str, OptionValue | None, list[str]]] = [
    ("drop_sinks", None, ["gpt_oss"]),
    ("sliding_window", 4, WINDOWED),
    ("sliding_window", 9, WINDOWED),
    ("sliding_window", 0, WINDOWED),
    ("attention_softcap", 0, ["gemma2"]),
    ("attention_softcap", 1.0, ["gemma2"]),
    ("attention_scale", 1.2, ALL),
    ("rope_theta", 10.0, ALL),
    ("rope_default", None, YARN),
    ("rope_attention_factor", 1.3, YARN),
    ("rope_factor", 2.0, YARN),
    ("inv_freq_dtype", "bfloat16", ALL),
    ("rope_dtype", "bfloat16", ALL),
    ("head_dtype", "bfloat16", ALL),
    ("final_softcap", 0, ["gemma2"]),
    ("final_softcap", 5.0, ["gemma2", "gemma3"]),
    ("logits_dtype", "bfloat16", ALL),
    ("norm_dtype", "bfloat16", ALL),
    ("router_dtype", "bfloat16", MOE),
    ("router_bias_zero", None, ["gpt_oss"]),
    ("expert_bias_zero", None, ["gpt_oss"]),
    ("expert_gate_up_order", "split", ["gpt_oss"]),
    ("expert_gate_up_order", "interleaved", ["qwen3_moe", "mixtral"]),
    ("expert_gate_up_order", "swapped", MOE),
    ("norm_topk", None, MOE),
    ("routed_scale", 1.5, MOE),
    ("attention_products", "tf32", ALL),
    ("attention_products", "tf32:cut", ALL),
    ("expert_products", "tf32:cut", MOE),
    ("projection_products", "tf32", ALL),
    ("all_products", "tf32", ALL),
    ("kv_dtype", "float8_e4m3fn", ALL),
    ("kv_dtype", "float8_e5m2", ALL),
    ("kv_dtype", "float8_e4m3fn:scaled", ALL),
    ("kv_dtype", "int8:scaled", ALL),
    ("kv_dtype", "float8_e5m2:truncated", ALL),
    ("weight_dtype", "bfloat16", ALL),
    ("weight_dtype", "float8_e4m3fn", ALL),
    ("weight_dtype", "int8", ALL),
    ("weight_dtype", "int4", ALL),
]


def test_every_alteration_is_tried() -> None:
    assert {name for name, _, _ in WHERE} == set(ALTERATIONS) - {
        "weights_from",
        "fitted_weights",
        "kv_read_back",  # which needs to know of prompts: see test_alterations_exact
    }


@pytest.mark.parametrize(("name", "value", "kinds"), WHERE, ids=lambda x: str(x)[:24])
def test_it_acts_and_is_undone(
    tiny: Tiny, logits: Logits, name: str, value: OptionValue | None, kinds: list[str]
) -> None:
    for kind in kinds:
        model = tiny(kind)
        before = logits(model)
        with altered(model, (Alteration(name=name, value=value),)):
            inside = logits(model)
        assert inside.isfinite().all(), kind
        assert not torch.equal(inside, before), kind
        assert torch.equal(logits(model), before), kind


@pytest.mark.parametrize(("name", "value", "kinds"), WHERE, ids=lambda x: str(x)[:24])
def test_it_is_refused_where_the_model_has_no_such_part(
    tiny: Tiny, logits: Logits, name: str, value: OptionValue | None, kinds: list[str]
) -> None:
    for kind in set(ALL) - set(kinds):
        with (
            pytest.raises(NotApplicableError),
            altered(tiny(kind), (Alteration(name=name, value=value),)),
        ):
            pytest.fail(f"{name} was applied to {kind}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sliding_window", 6),
        ("rope_theta", 1.0),
        ("expert_gate_up_order", "interleaved"),
        ("kv_dtype", "float32"),
        ("weight_dtype", "float32"),
    ],
)
def test_a_change_to_what_is_there_is_refused(tiny: Tiny, name: str, value: OptionValue) -> None:
    with (
        pytest.raises(NotApplicableError),
        altered(tiny("gpt_oss"), (Alteration(name=name, value=value),)),
    ):
        pytest.fail("applied")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attention_scale", None),
        ("sliding_window", 2.5),
        ("kv_dtype", "float9"),
        ("kv_dtype", "float9:scaled"),
        ("kv_dtype", "bfloat16:truncated"),
        ("kv_dtype", "float8_e5m2:rotated"),
        ("kv_dtype", None),
        ("expert_gate_up_order", "shuffled"),
    ],
)
def test_a_value_it_cannot_use_is_the_callers_error(
    tiny: Tiny, name: str, value: OptionValue | None
) -> None:
    with (
        pytest.raises(InputError),
        altered(tiny("gpt_oss"), (Alteration(name=name, value=value),)),
    ):
        pytest.fail("applied")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_works_in_other_dtypes(tiny: Tiny, logits: Logits, dtype: torch.dtype) -> None:
    from copy import deepcopy

    for kind in ("gpt_oss", "qwen3_moe", "gemma2"):
        model = deepcopy(tiny(kind)).to(dtype)
        before = logits(model)
        for name, value, kinds in WHERE:
            already = dtype == torch.bfloat16 and value == "bfloat16" and name != "norm_dtype"
            if kind not in kinds or already or name.endswith("_products"):  # float32's alone
                continue
            with altered(model, (Alteration(name=name, value=value),)):
                assert logits(model).isfinite().all(), name
            assert torch.equal(logits(model), before), name


LARGE = [row for row in WHERE if row[0] in ("weight_dtype", "expert_gate_up_order")]


@pytest.mark.parametrize(("name", "value", "kinds"), LARGE, ids=lambda x: str(x)[:24])
def test_weights_that_have_no_room_twice_are_made_where_they_are_used(
    tiny: Tiny,
    logits: Logits,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: OptionValue,
    kinds: list[str],
) -> None:
    alteration = (Alteration(name=name, value=value),)
    for kind in kinds:
        model = tiny(kind)
        before = {n: (p, p.data_ptr(), p.clone()) for n, p in model.named_parameters()}
        with altered(model, alteration):
            expected = logits(model)
        with monkeypatch.context() as full:
            full.setattr("mismatch_lab.interventions.planting.free_bytes", lambda _device: 0)
            with altered(model, alteration):
                assert torch.equal(logits(model), expected), kind
                for parameter, at, values in before.values():
                    assert (parameter.data_ptr(), parameter.equal(values)) == (at, True), kind
        assert not torch.equal(logits(model), expected), kind


def test_several_hold_together_and_are_undone_when_one_is_refused(
    tiny: Tiny, logits: Logits
) -> None:
    model = tiny("gpt_oss")
    before = logits(model)
    first = Alteration(name="drop_sinks")
    second = Alteration(name="logits_dtype", value="bfloat16")
    with altered(model, (first,)):
        without_sinks = logits(model)
    with altered(model, (first, second)):
        assert torch.equal(logits(model), without_sinks.bfloat16().float())
    refused = Alteration(name="attention_softcap", value=0)
    with pytest.raises(NotApplicableError), altered(model, (first, refused)):
        pytest.fail("applied")
    assert torch.equal(logits(model), before)


def test_layers_limit_it(tiny: Tiny) -> None:
    model = tiny("gpt_oss")
    sinks = {n: p.clone() for n, p in model.named_parameters() if n.endswith("sinks")}
    with altered(model, (Alteration(name="drop_sinks", layers=(1,)),)):
        changed = [n for n, old in sinks.items() if not model.get_parameter(n).equal(old)]
    assert changed == ["model.layers.1.self_attn.sinks"]


def test_stale_weights_are_those_of_the_folder(tiny: Tiny, logits: Logits, tmp_path: Path) -> None:
    model = tiny("qwen3_moe")
    before = logits(model)
    name = "model.layers.1.mlp.experts.2.up_proj.weight"  # one expert, as checkpoints name it
    fused = model.get_parameter("model.layers.1.mlp.experts.gate_up_proj")
    kept = fused.data.clone()
    fused.data[2, 16:] *= 1.5  # rows 0..15 are gate, 16..31 up
    fused.data[3] *= 1.5
    other = logits(model)
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    fused.data.copy_(kept)
    with altered(model, (Alteration(name="weights_from", value=str(tmp_path)),)):
        assert torch.equal(logits(model), other)
    alteration = Alteration(name="weights_from", value=str(tmp_path), tensors=(name,))
    with altered(model, (alteration,)):
        inside = model.get_parameter("model.layers.1.mlp.experts.gate_up_proj").data
        moved = (inside != kept).nonzero()
    # The folder is in fp32, so exactly rows 16..31 of expert 2 move (no weight is 0).
    assert set(moved[:, 0].tolist()) == {2}
    assert set(moved[:, 1].tolist()) == set(range(16, 32))
    assert torch.equal(logits(model), before)


def test_the_head_alone_goes_stale_when_it_is_named(tiny: Tiny, tmp_path: Path) -> None:
    model: Any = tiny("plain_llama")  # tied
    embedding = model.get_parameter("model.embed_tokens.weight")
    kept = embedding.data.clone()
    embedding.data *= 2
    model.save_pretrained(tmp_path)
    embedding.data.copy_(kept)

    def stale(*names: str) -> tuple[bool, bool]:
        alteration = Alteration(name="weights_from", value=str(tmp_path), tensors=names)
        with altered(model, (alteration,)):
            tables = (model.model.embed_tokens.weight, model.lm_head.weight)
            return not tables[0].equal(kept), not tables[1].equal(kept)

    assert stale("lm_head.weight") == (False, True)
    assert stale("model.embed_tokens.weight") == (True, True)
    with pytest.raises(InputError, match="no tensor 'lm_hed'"):
        stale("lm_hed")
