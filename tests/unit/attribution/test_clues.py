"""What a config tells of a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import clues

from mismatch_lab.engines.checkpoint import read_config


def test_what_a_config_says() -> None:
    kinds = ["full_attention", "sliding_attention"]
    found = clues(config={"num_hidden_layers": 2, "layer_types": kinds})
    assert found.n_layers == 2
    assert found.first_layer("sliding_attention") == 1
    assert found.first_layer("linear_attention") == found.first_layer() == 0
    assert clues().n_layers == 0


@pytest.mark.parametrize("key", ["num_experts", "num_local_experts"])
def test_experts_make_a_mixture(key: str) -> None:
    assert clues(config={key: 8}).is_moe
    assert not clues(config={"num_hidden_layers": 2}).is_moe


def test_the_config_of_the_language_model_is_read(tmp_path: Path) -> None:
    assert read_config(str(tmp_path)) == {}
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 7}))
    assert read_config(str(tmp_path)) == {"vocab_size": 7}
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 9}}))
    assert read_config(str(tmp_path)) == {"vocab_size": 9}
    assert read_config("mini-gpt-oss")["model_type"] == "gpt_oss"
