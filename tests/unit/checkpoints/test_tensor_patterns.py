"""Names of many tensors in few words."""

from __future__ import annotations

from mismatch_lab.checkpoints.tensor_patterns import by_pattern, summary


def test_layers_are_ranges_and_other_names_stay() -> None:
    names = [f"model.layers.{n}.mlp.up_proj.weight" for n in (0, 1, 2, 5)]
    assert summary([*names, "lm_head.weight"]) == (
        "model.layers.0-2,5.mlp.up_proj.weight, lm_head.weight"
    )


def test_a_layer_by_itself_is_its_number() -> None:
    assert summary(["model.layers.11"]) == "model.layers.11"


def test_numbers_of_experts_are_no_layers() -> None:
    name = "model.layers.3.mlp.experts.7.up_proj.weight"
    assert by_pattern([name], str) == {name: [name]}


def test_nothing_is_nothing() -> None:
    assert summary([]) == ""
