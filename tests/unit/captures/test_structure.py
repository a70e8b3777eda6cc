"""The parts of a decoder, by the model's own structure, under transformers' names."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from mismatch_lab.captures.names import canonical_name, layer_of, renamed
from mismatch_lab.captures.structure import Outline, named_parts, outline


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        # transformers
        ("model.layers.3", "model.layers.3"),
        ("model.layers.3.self_attn.q_proj", "model.layers.3.self_attn.q_proj"),
        ("model.layers.3.mlp.gate", "model.layers.3.mlp.gate"),
        ("model.norm", "model.norm"),
        ("model.embed_tokens", "model.embed_tokens"),
        # vLLM
        ("model.layers.3.attn", "model.layers.3.self_attn"),
        ("model.layers.3.attn.qkv_proj", "model.layers.3.self_attn.qkv_proj"),
        ("model.layers.3.block_sparse_moe.experts", "model.layers.3.mlp.experts"),
        ("model.embedding", "model.embed_tokens"),
        # Lists by any name, and a model inside a wrapper
        ("transformer.h.0", "model.layers.0"),
        ("transformer.blocks.0.ffn.router", "model.layers.0.mlp.router"),
        ("model.decoder.layers.2.fc1", "model.layers.2.fc1"),
        ("gpt_neox.layers.5.attention.dense", "model.layers.5.self_attn.dense"),
        ("transformer.wte", "model.embed_tokens"),
        ("transformer.ln_f", "model.norm"),
        ("language_model.model.layers.1.mlp", "model.layers.1.mlp"),
        ("lm_head", "lm_head"),
        ("model.layers.3.mlp.experts.0.up_proj", "model.layers.3.mlp.experts.0.up_proj"),
    ],
)
def test_names_are_those_of_transformers(name: str, canonical: str) -> None:
    assert canonical_name(name) == canonical


def test_the_layer_of_a_name() -> None:
    assert layer_of("model.layers.12.mlp") == 12
    assert layer_of("model.norm") is None


def test_a_synonym_is_taken_only_where_nothing_else_has_the_name() -> None:
    known = {"model.layers.0.mlp.router", "model.layers.1.mlp.gate", "model.layers.1.mlp.router"}
    own = ["model.layers.0.mlp.gate", "model.layers.1.mlp.gate", "model.layers.0.mlp.other"]
    assert renamed(own, known) == {
        "model.layers.0.mlp.gate": "model.layers.0.mlp.router",
        "model.layers.1.mlp.gate": "model.layers.1.mlp.gate",
        "model.layers.0.mlp.other": "model.layers.0.mlp.other",
    }


class FancyNorm(nn.Module):
    """Without weights, as OLMo's."""


def decoder() -> nn.Module:
    """A model in nobody's words: a list of layers, tables before it, norms around it."""
    layer = nn.ModuleDict(
        {
            "ln_1": nn.LayerNorm(4),
            "attention": nn.ModuleDict({"query": nn.Linear(4, 4), "dropout": nn.Dropout()}),
            "q_norm": FancyNorm(),
            "ffn": nn.ModuleDict({"experts": nn.ModuleList([nn.Linear(4, 4) for _ in range(9)])}),
            "act": nn.GELU(),
        }
    )
    stack = nn.ModuleDict(
        {
            "words": nn.Embedding(9, 4),
            "places": nn.Embedding(99, 4),
            "first_norm": nn.LayerNorm(4),
            "blocks": nn.ModuleList([layer]),
            "last_norm": nn.LayerNorm(4),
        }
    )
    return nn.ModuleDict({"text": stack, "out": nn.Linear(4, 9)})


def test_embedding_layers_and_final_norm_are_found_in_the_model() -> None:
    assert outline(decoder()) == Outline("text.words", "text.blocks", "text.last_norm")


def test_of_several_lists_the_one_that_the_config_counts_is_taken() -> None:
    model = nn.ModuleDict(
        {
            "vision": nn.ModuleDict({"blocks": nn.ModuleList([decoder() for _ in range(3)])}),
            "text": nn.ModuleDict({"h": nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])}),
        }
    )
    assert outline(model).layers == "vision.blocks"
    model.config = SimpleNamespace(num_hidden_layers=2)
    assert outline(model).layers == "text.h"


def test_what_holds_weights_or_is_a_norm_is_a_part() -> None:
    """No dropout, no activation, no single expert of a list."""
    parts = named_parts(plain_decoder())
    assert list(parts) == [
        "model.embed_tokens",
        "model.layers.0",
        "model.layers.0.self_attn",
        "model.layers.0.self_attn.query",
        "model.layers.0.q_norm",
        "model.norm",
    ]


def plain_decoder() -> nn.Module:
    class Block(nn.Module):
        def __init__(self, **parts: nn.Module) -> None:
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

    layer = Block(
        attn=Block(query=nn.Linear(4, 4), dropout=nn.Dropout()),
        q_norm=FancyNorm(),
        act=nn.GELU(),
        experts=nn.ModuleList([nn.Linear(4, 4)]),
    )
    return Block(wte=nn.Embedding(9, 4), h=nn.ModuleList([layer]), ln_f=nn.LayerNorm(4))
