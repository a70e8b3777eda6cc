"""verl's own configuration, as far as it says how the actor computes log-probs; without verl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mismatch_lab.engines.verl_config import ActorConfig, read_actor, sorted_out
from mismatch_lab.engines.verl_cpu import ATTENTION, refuse, stand_ins
from mismatch_lab.errors import InputError

KNOWN: dict[str, Any] = {
    "model": {
        "path": "~/m", "override_config": {}, "use_remove_padding": True, "lora_rank": 0,
        "use_fused_kernels": False, "fused_kernel_options": {"impl_backend": "torch"},
    },
    "actor": {
        "strategy": "fsdp", "ppo_epochs": 1, "ulysses_sequence_parallel_size": 1,
        "fsdp_config": {"model_dtype": "fp32", "dtype": "bfloat16", "param_offload": False},
    },
    "rollout": {"temperature": 1.0},
}  # fmt: skip
"""As verl's packaged YAML has them, some of each kind."""

RECIPE = """
data: {train_files: x}
actor_rollout_ref:
  model:
    path: Qwen/Qwen3-4B
    lora_rank: 32
    override_config: {attn_implementation: eager}
  actor:
    ppo_epochs: 2
    strategy: fsdp2
    fsdp_config: {model_dtype: bf16, dtype: float16, mixed_precision: {param_dtype: fp32}}
  rollout: {name: vllm, temperature: 0.8}
"""


def read(tmp_path: Path, text: str) -> dict[str, Any]:
    file = tmp_path / "verl.yaml"
    file.write_text(text, encoding="utf-8")
    return read_actor(file)


def test_each_entry_is_handed_on_or_left_with_a_reason(tmp_path: Path) -> None:
    config = sorted_out(read(tmp_path, RECIPE), KNOWN)
    assert config.handed_on == {
        "model.override_config.attn_implementation": "eager",
        "actor.strategy": "fsdp2",
        "actor.fsdp_config.model_dtype": "bf16",
        "actor.fsdp_config.mixed_precision.param_dtype": "fp32",
    }
    assert config.left == {
        "model.path": "the model is the one that is diagnosed",
        "model.lora_rank": "no adapter is loaded: MODEL holds the policy",
        "actor.ppo_epochs": "of the update, not of log-probs",
        # Its name says otherwise; the engine takes mixed_precision's, bf16 where there is none.
        "actor.fsdp_config.dtype": "verl's FSDP engine does not read it: "
        "mixed_precision.param_dtype is what counts",
    }
    assert config.nested() == {
        "model": {"override_config": {"attn_implementation": "eager"}},
        "actor": {
            "strategy": "fsdp2",
            "fsdp_config": {"model_dtype": "bf16", "mixed_precision": {"param_dtype": "fp32"}},
        },
    }


def test_entries_may_be_typed_as_on_verls_command_line() -> None:
    typed = {
        "+actor_rollout_ref.model.override_config.rope_theta": 5,
        "actor_rollout_ref.model.use_remove_padding": False,
        "actor.fsdp_config.param_offload": True,
    }
    config = sorted_out(typed, KNOWN)
    assert config.handed_on == {
        "model.override_config.rope_theta": 5, "model.use_remove_padding": False,
    }  # fmt: skip
    assert config.left == {"actor.fsdp_config.param_offload": "memory and scheduling alone"}


def test_an_entry_below_what_the_file_has_as_null_stands_over_it() -> None:
    precision = "actor.fsdp_config.mixed_precision"
    config = sorted_out({precision: None, f"{precision}.param_dtype": "fp32"}, KNOWN)
    assert config.nested() == {
        "actor": {"fsdp_config": {"mixed_precision": {"param_dtype": "fp32"}}}
    }


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ({"model.use_remove_pading": True}, "model.use_remove_padding"),
        ({"rollout.temperature": 0.5}, "verl's actor has no 'rollout.temperature'"),
        ({"actor.fsdp_config.modeldtype": "bf16"}, "verl's actor has no"),
        ({"actor.strategy": "megatron"}, "of verl's actors its FSDP engine is run"),
        ({"actor.ulysses_sequence_parallel_size": 2}, "one process"),
    ],
)
def test_what_verl_lacks_or_cannot_be_run_here_is_refused(typed: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as refused:
        sorted_out(typed, KNOWN)
    assert says in f"{refused.value.problem} {refused.value.hint}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "is no YAML of verl's"),
        ("- 1", "says nothing of verl's actor"),
        ("actor_rollout_ref: {rollout: {temperature: 1}}", "says nothing of verl's actor"),
        ("actor_rollout_ref: {actor: {strategy: '${x}'}}", "only Hydra can resolve"),
    ],
)
def test_a_file_that_says_nothing_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says.replace("$", r"\$")):
        read(tmp_path, text)
    with pytest.raises(InputError, match="is no YAML"):
        read_actor(tmp_path / "none.yaml")


def test_an_open_value_of_what_is_left_out_does_not_matter(tmp_path: Path) -> None:
    text = "actor_rollout_ref: {model: {path: '${oc.env:MODEL}', use_remove_padding: false}}"
    config = sorted_out(read(tmp_path, text), KNOWN)
    assert config.handed_on == {"model.use_remove_padding": False}


def test_on_a_cpu_what_stands_in_is_named() -> None:
    entries, notes = stand_ins({}, "sdpa", tied=False)
    assert entries == {"actor.strategy": "fsdp2", ATTENTION: "sdpa"}
    assert [note.split(" in place of ")[0] for note in notes[2:]] == [
        "actor.strategy=fsdp2", f"{ATTENTION}=sdpa",
    ]  # fmt: skip


def test_on_a_cpu_what_was_chosen_is_kept() -> None:
    chosen = {"actor.strategy": "fsdp2", ATTENTION: "eager"}
    entries, notes = stand_ins(chosen, "sdpa", tied=False)
    assert entries == {}
    assert len(notes) == 2  # the platform, and the log-softmax where flash-attn is not


@pytest.mark.parametrize(
    "entries",
    [
        {ATTENTION: "flash_attention_2"},
        {"model.use_liger": True},
        {"model.use_fused_kernels": True, "model.fused_kernel_options.impl_backend": "triton"},
    ],
)
def test_on_a_cpu_what_nothing_can_stand_in_for_is_refused(entries: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="needs a GPU"):
        refuse(entries)


def test_a_backend_that_verl_does_not_look_at_is_not_refused() -> None:
    refuse({"model.fused_kernel_options.impl_backend": "triton"})
    assert ActorConfig().nested() == {}


def test_fused_kernels_of_a_head_of_its_own_need_a_gpu() -> None:
    fused = {"model.use_fused_kernels": True}
    with pytest.raises(InputError, match="needs a GPU for this model"):
        stand_ins(fused, "sdpa", tied=False)
    assert stand_ins(fused, "sdpa", tied=True)[0]["actor.strategy"] == "fsdp2"
