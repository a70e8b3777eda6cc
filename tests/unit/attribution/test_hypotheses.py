"""Hypotheses are set to a number, or to layers, without touching the rest.

What a config tells of a model.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import altered_by, features, searched

from mismatch_lab.attribution.hypotheses import FreeNumber, Hypothesis, RowChange, TokenChange
from mismatch_lab.checkpoints.config import read_config
from mismatch_lab.schema import Alteration

GRID = FreeNumber((1.0, 2.0), "log")


def test_the_number_goes_to_the_last_change() -> None:
    rows = Hypothesis("c", "", rows=(RowChange("top_p", 0.5), RowChange("scale")), search=GRID)
    assert rows.at(1.5).rows == (RowChange("top_p", 0.5), RowChange("scale", 1.5))
    tokens = Hypothesis("c", "", tokens=(TokenChange("shift"),), search=GRID)
    assert tokens.at(-1.0).tokens == (TokenChange("shift", -1.0),)
    two = (Alteration(name="a", value=3), Alteration(name="b"))
    model = Hypothesis("c", "", model=two, search=GRID).at(1.5)
    assert model.model == (two[0], Alteration(name="b", value=1.5))
    assert [h.value for h in (rows.at(1.5), tokens.at(-1.0), model)] == [1.5, -1.0, 1.5]


def test_whole_numbers_stay_whole() -> None:
    width = searched("sliding_window", (8.0, 16.0), "integer").at(12.0).model[0].value
    assert width == 12
    assert isinstance(width, int)


def test_without_a_search_there_is_no_number() -> None:
    fixed = Hypothesis("c", "", rows=(RowChange("top_p", 0.9),))
    assert fixed.value is None


def test_in_some_layers() -> None:
    attention = altered_by("drop_sinks", part="self_attn", location="model.layers.0.self_attn")
    placed = attention.in_layers((1, 3))
    assert placed.model == (Alteration(name="drop_sinks", layers=(1, 3)),)
    assert placed.location == "model.layers.1.self_attn"
    assert placed.label == f"{attention.label}, in layer 1, 3"
    assert (attention.fitted, placed.fitted) == (0, 2)
    head = altered_by("head_dtype", location="lm_head")
    assert head.in_layers((1,)).location == "lm_head"


def test_what_a_config_says() -> None:
    kinds = ["full_attention", "sliding_attention"]
    found = features(config={"num_hidden_layers": 2, "layer_types": kinds})
    assert found.n_layers == 2
    assert found.first_layer("sliding_attention") == 1
    assert found.first_layer("linear_attention") == found.first_layer() == 0
    assert features().n_layers == 0


@pytest.mark.parametrize("key", ["num_experts", "num_local_experts"])
def test_experts_make_a_mixture(key: str) -> None:
    assert features(config={key: 8}).is_moe
    assert not features(config={"num_hidden_layers": 2}).is_moe


def test_the_config_of_the_language_model_is_read(tmp_path: Path) -> None:
    assert read_config(str(tmp_path)) == {}
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 7}))
    assert read_config(str(tmp_path)) == {"vocab_size": 7}
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 9}}))
    assert read_config(str(tmp_path)) == {"vocab_size": 9}
    assert read_config("mini-gpt-oss")["model_type"] == "gpt_oss"
