"""Counts from config.json against transformers' own modules, without weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mismatch_lab.checkpoints.config import EMBEDDED, resolve_model_path
from mismatch_lab.errors import InputError
from mismatch_lab.trainer.planner.shapes import read_shape, shape_of, sharded_numbers

EXAMPLES = Path(__file__).parents[4] / "examples"
COMMON: dict[str, Any] = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 50,
}  # fmt: skip
MOE = {"num_experts_per_tok": 2, "num_local_experts": 6}
FAMILIES = {
    "llama": {"mlp_bias": True, "attention_bias": True},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {},
    "qwen3_moe": {"moe_intermediate_size": 12, "num_experts": 6, "num_experts_per_tok": 2},
    "gpt_oss": MOE,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_counted_in_its_group(family: str) -> None:
    config = AutoConfig.for_model(family, **COMMON, **FAMILIES[family])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    for given in (config.to_dict(), json.loads(config.to_json_string(use_diff=False))):
        shape = shape_of(given, family)
        real = [tuple(p.shape) for p in model.model.layers[0].parameters()]
        assert sorted(shape.layer) == sorted(real)
        assert shape.parameters == sum(p.numel() for p in model.parameters())


def test_the_embedded_model_and_the_published_ones() -> None:
    model = AutoModelForCausalLM.from_pretrained(resolve_model_path(EMBEDDED))
    assert read_shape(EMBEDDED).parameters == sum(p.numel() for p in model.parameters())
    # Model card, arXiv:2508.10925, table 1: 20.91 and 116.83 billion.
    assert round(read_shape(str(EXAMPLES / "gpt_oss_20b")).parameters / 1e9, 2) == 20.91
    assert round(read_shape(str(EXAMPLES / "gpt_oss_120b")).parameters / 1e9, 2) == 116.83


def test_a_first_dimension_that_ranks_do_not_divide_is_padded() -> None:
    assert sharded_numbers([(32, 10)], 7) == 50  # 5 experts to a rank
    assert sharded_numbers([(32, 10), (3,)], 64) == 11


@pytest.mark.parametrize(
    ("config", "named"),
    [({"model_type": "mamba"}, "mamba"), ({"model_type": "llama"}, "hidden_size")],
)
def test_what_cannot_be_planned_is_an_error(config: dict[str, str], named: str) -> None:
    with pytest.raises(InputError, match=named):
        shape_of(config, "here")
