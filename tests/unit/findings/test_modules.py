"""Names of modules: what has its output before what."""

from __future__ import annotations

import random

import pytest

from mismatch_lab.captures.names import kind_of
from mismatch_lab.findings.module_error import execution_order, holders_of

IN_ORDER = [
    "model.embed_tokens",
    "model.layers.0.input_layernorm",
    "model.layers.0.self_attn.o_proj",
    "model.layers.0.post_attention_layernorm",
    "model.layers.0.mlp.experts",
    "model.layers.0.something_new",
    "model.layers.0",
    "model.layers.2.input_layernorm",
    "model.layers.10.input_layernorm",
    "model.norm",
    "lm_head",
]


def test_modules_stand_in_the_order_in_which_they_run() -> None:
    shuffled = random.Random(0).sample(IN_ORDER, len(IN_ORDER))
    assert sorted(shuffled, key=execution_order) == IN_ORDER


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lm_head", "head"),
        ("model.embed_tokens", "embedding"),
        ("model.layers.11", "layer"),
        ("model.layers.0.self_attn", "attention"),
        ("model.layers.0.self_attn.v_proj", "projection"),
        ("model.layers.0.self_attn.q_norm", "norm"),
        ("model.layers.0.input_layernorm", "norm"),
        ("model.norm", "norm"),
        ("model.layers.0.mlp", "mlp"),
        ("model.layers.0.mlp.router", "router"),
        ("model.layers.0.mlp.gate", "router"),
        ("model.layers.0.mlp.gate_proj", "projection"),
        ("model.layers.0.mlp.experts", "experts"),
        ("model.layers.0.mlp.shared_experts", "mlp"),
        ("model.layers.0.mlp.shared_expert_gate", "projection"),
        ("model.layers.0.self_attn_layer_norm", "norm"),
        ("model.layers.0.ln_1", "norm"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_what_holds_a_module_goes_up_to_its_layer() -> None:
    assert holders_of("model.layers.3.mlp.shared_experts.up_proj") == [
        "model.layers.3.mlp.shared_experts",
        "model.layers.3.mlp",
        "model.layers.3",
    ]
    assert holders_of("model.layers.3") == []
    assert holders_of("model.norm") == []
