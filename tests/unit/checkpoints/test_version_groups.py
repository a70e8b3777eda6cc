"""Which replays are planned, and which tensor is old in which."""

from __future__ import annotations

from mismatch_lab.checkpoints.version_groups import (
    TensorGroup,
    group_tensors,
    replay_id,
    replay_slots,
)

LAYER = "model.layers.0"
ATTENTION = f"{LAYER}.self_attn"
DENSE = ["model.embed_tokens.weight", f"{LAYER}.mlp.up_proj.weight", f"{ATTENTION}.q_proj.weight"]
SPARSE = [
    f"{ATTENTION}.q_proj.bias",
    f"{ATTENTION}.q_proj.weight",
    f"{ATTENTION}.sinks",
    f"{LAYER}.mlp.experts.0.down_proj.weight",
    f"{LAYER}.mlp.experts.0.up_proj.weight",
    f"{LAYER}.mlp.experts.1.down_proj.weight",
    f"{LAYER}.mlp.experts.1.up_proj.weight",
    f"{LAYER}.mlp.gate.weight",
]


def by_name(groups: list[TensorGroup]) -> dict[str, TensorGroup]:
    return {group.name: group for group in groups}


def old_in(groups: list[TensorGroup]) -> list[str]:
    return [replay_id(slots) for slots in replay_slots(groups)]


def test_one_tensor_a_module_takes_one_replay() -> None:
    groups = group_tensors(DENSE, DENSE)
    assert {group.slot for group in groups} == {"0"}
    assert old_in(groups) == ["old_on_infer.0"]


def test_all_experts_of_a_layer_are_one_group() -> None:
    groups = by_name(group_tensors(SPARSE, SPARSE))
    assert groups[f"{LAYER}.mlp.experts.*.down_proj.weight"] == TensorGroup(
        f"{LAYER}.mlp.experts.*.down_proj.weight",
        f"{LAYER}.mlp.experts",
        (SPARSE[3], SPARSE[5]),
        "0",
    )
    assert groups[f"{LAYER}.mlp.experts.*.up_proj.weight"].slot == "1"
    assert len(groups) == 6


def test_the_router_and_what_stands_beside_modules_are_apart() -> None:
    groups = group_tensors(SPARSE, SPARSE)
    assert by_name(groups)[f"{LAYER}.mlp.gate.weight"].slot == "router0"
    assert by_name(groups)[f"{ATTENTION}.sinks"].slot == "own0"
    assert old_in(groups) == [
        "old_on_infer.0", "old_on_infer.1", "old_on_infer.0-1",
        "old_on_infer.own0",
        "old_on_infer.router0",
        "old_on_infer.0-router0", "old_on_infer.1-router0", "old_on_infer.0-1-router0",
        "old_on_infer.0-own0", "old_on_infer.1-own0", "old_on_infer.0-1-own0-router0",
    ]  # fmt: skip


def test_sinks_stand_beside_projections_though_those_did_not_change() -> None:
    (sinks,) = group_tensors([f"{ATTENTION}.sinks"], SPARSE)
    assert sinks.slot == "own0"
    assert old_in([sinks]) == ["old_on_infer.own0"]


def test_the_head_is_a_module_of_its_own() -> None:
    (head,) = group_tensors(["lm_head.weight"], ["lm_head.weight", *DENSE])
    assert (head.module, head.slot) == ("lm_head", "0")


def test_more_tensors_than_slots_share_the_last() -> None:
    names = [f"{LAYER}.mlp.experts.part{i}" for i in range(6)]
    assert [group.slot for group in group_tensors(names, names)] == ["0", "1", "2", "3", "3", "3"]


def test_nothing_changed_plans_nothing() -> None:
    assert replay_slots(group_tensors([], DENSE)) == []
    assert replay_id(frozenset()) == "ref_on_infer"
