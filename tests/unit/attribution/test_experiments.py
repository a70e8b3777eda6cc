"""The catalogue of experiments, and which is next."""

from __future__ import annotations

from typing import Any

import pytest
from builders import run_of, side

from mismatch_lab.attribution.causes import CAUSES
from mismatch_lab.attribution.experiments import EXPERIMENTS, choices, next_choice
from mismatch_lab.attribution.experiments.base import (
    ASKED,
    DEFAULT,
    JUDGED,
    PATCHED,
    Experiment,
    judged_but,
)
from mismatch_lab.engines.settings import HOOKABLE, PLAIN_VLLM
from mismatch_lab.schema import RunSpec


def vllm(**args: Any) -> RunSpec:
    """vLLM with nothing that matters left to its own defaults, but for `args`."""
    args = {**PLAIN_VLLM, **args}
    return run_of(side("train", engine="fsdp"), side("infer", engine="vllm", args=args))


PLAIN_SGLANG = HOOKABLE["sglang"]


def sglang(gpu: bool = False, **args: Any) -> RunSpec:
    """SGLang with nothing that matters left to its own defaults, but for `args`."""
    args = {**PLAIN_SGLANG, **args}
    run = run_of(side("train", engine="fsdp"), side("infer", engine="sglang", args=args))
    gpus = ["NVIDIA H200"] if gpu else []
    return run.model_copy(
        update={"provenance": run.provenance.model_copy(update={"accelerators": gpus})}
    )


def trainer(plugin: str | None = None, **args: Any) -> RunSpec:
    return run_of(side("train", engine="hf", args=args, plugin=plugin))


def test_experiments_have_names_of_their_own_and_contradict_nothing() -> None:
    assert len({experiment.id for experiment in EXPERIMENTS}) == len(EXPERIMENTS)
    assert len({(experiment.side, experiment.changes) for experiment in EXPERIMENTS}) == len(
        EXPERIMENTS
    )
    for experiment in EXPERIMENTS:
        assert experiment.cures, experiment.id
        assert not experiment.cures & experiment.leaves, experiment.id
        assert not experiment.clears & experiment.may_clear, experiment.id
        assert experiment.cures | experiment.leaves <= set(CAUSES), experiment.id
        assert len({s == "train" for s in experiment.suspects}) == 1, experiment.id  # of one side


NOT_JUDGED: set[str] = set()
"""Causes of the catalogue that experiments were not gone through for."""


def test_a_new_cause_is_known_to_experiments_or_said_not_to_be() -> None:
    assert set(CAUSES) - JUDGED == NOT_JUDGED
    assert set(CAUSES) >= JUDGED


def test_a_cause_that_is_none_is_refused() -> None:
    with pytest.raises(KeyError):
        judged_but("logit-skale")


@pytest.mark.parametrize("run", [vllm(), sglang(), trainer()])
def test_what_stands_plain_already_is_not_turned(run: RunSpec) -> None:
    found = {c.experiment.id for c in choices(run, "decode")}
    assert found == set()  # temperature 1, the whole distribution, nothing set


@pytest.mark.parametrize(
    ("args", "experiment", "after"),
    [
        ({"kv_cache_dtype": "fp8"}, "kv-cache-dtype", {"kv_cache_dtype": "auto"}),
        ({"enforce_eager": False}, "eager-mode", {"enforce_eager": True}),
        ({"attention_backend": "FLASHINFER"}, "attention-backend", {}),
        ({"generation_config": "auto"}, "generation-config", {"generation_config": "vllm"}),
    ],
)
def test_what_the_user_set_on_the_engine_can_be_turned_back(
    args: dict[str, Any], experiment: str, after: dict[str, Any]
) -> None:
    (choice,) = choices(vllm(**args), "decode")
    assert (choice.experiment.id, choice.prepared.likely) == (experiment, ASKED)
    assert choice.prepared.trial.spec.args == {**PLAIN_VLLM, **after}


def test_what_the_engine_does_by_itself_can_be_turned_off() -> None:
    run = run_of(side("train", engine="fsdp"), side("infer", engine="vllm"))
    found = {c.experiment.id: c.prepared.likely for c in choices(run, "decode")}
    assert found == dict.fromkeys(("prefix-cache", "logprobs-mode", "generation-config"), DEFAULT)
    gpu = run.provenance.model_copy(update={"accelerators": ["one"]})
    found = {c.experiment.id for c in choices(run.model_copy(update={"provenance": gpu}), "decode")}
    assert found >= {"eager-mode", "chunked-prefill"}


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("disable_radix_cache", False, True),
        ("chunked_prefill_size", 64, -1),
        ("disable_overlap_schedule", False, True),
        ("disable_cuda_graph", False, True),
        ("original_logprob", True, False),
        ("kv_cache_dtype", "fp8_e4m3", "auto"),
    ],
)
def test_what_the_user_set_on_sglang_can_be_turned_back(name: str, value: Any, plain: Any) -> None:
    (choice,) = choices(sglang(**{name: value}), "decode")
    assert choice.prepared.trial.spec.args == {**PLAIN_SGLANG, name: plain}
    assert choice.prepared.likely == ASKED


@pytest.mark.parametrize(
    ("gpu", "found"),
    [
        (False, {"radix-cache", "chunked-prefill"}),
        (True, {"radix-cache", "chunked-prefill", "overlap-schedule", "cuda-graphs",
                "deterministic", "on-policy-target"}),
    ],
)  # fmt: skip
def test_what_sglang_does_by_itself_can_be_turned_off(gpu: bool, found: set[str]) -> None:
    run = run_of(side("train", engine="fsdp"), side("infer", engine="sglang"))
    accelerators = ["NVIDIA H200"] if gpu else []
    on = run.provenance.model_copy(update={"accelerators": accelerators})
    turned = choices(run.model_copy(update={"provenance": on}), "decode")
    assert {c.experiment.id: c.prepared.likely for c in turned} == {
        f"sglang-{k}": DEFAULT for k in found
    }


def test_a_backend_for_decoding_alone_is_left_to_sglang_too() -> None:
    (choice,) = choices(sglang(decode_attention_backend="triton"), "decode")
    assert (choice.experiment.id, choice.prepared.trial.spec.args) == (
        "attention-backend",
        PLAIN_SGLANG,
    )


def test_sglang_is_asked_for_determinism_where_a_gpu_is() -> None:
    found = {
        c.experiment.id: c.prepared.trial.spec.args for c in choices(sglang(gpu=True), "decode")
    }
    assert found == {
        "sglang-deterministic": {**PLAIN_SGLANG, "enable_deterministic_inference": True},
        "sglang-on-policy-target": {**PLAIN_SGLANG, "rl_on_policy_target": "fsdp"},
    }


def test_no_generation_config_is_no_override_either() -> None:
    run = vllm(override_generation_config='{"top_k": 20}')
    (choice,) = choices(run, "decode")
    assert (choice.experiment.id, choice.prepared.likely) == ("generation-config", ASKED)
    assert choice.prepared.trial.spec.args == PLAIN_VLLM


def test_sampling_fields_that_sglang_prefers_can_be_left_out() -> None:
    (choice,) = choices(sglang(preferred_sampling_params='{"top_k": 20}'), "decode")
    assert (choice.experiment.id, choice.prepared.trial.spec.args) == (
        "generation-config",
        PLAIN_SGLANG,
    )


def test_temperature_is_turned_by_sampling_anew() -> None:
    run = vllm()
    sampling = run.probe.sampling.model_copy(update={"temperature": 0.6})
    run = run.model_copy(update={"probe": run.probe.model_copy(update={"sampling": sampling})})
    (choice,) = choices(run, "decode")
    assert choice.prepared.trial.sampling is not None
    assert choice.prepared.trial.sampling.temperature == 1.0


def test_a_trainer_in_half_precision_can_be_run_in_float32() -> None:
    half = side("train", engine="fsdp", args={"param_dtype": "bfloat16"}).model_copy(
        update={"dtype": "bfloat16"}
    )
    found = {c.experiment.id: c.prepared for c in choices(run_of(half), "train")}
    spec = found["trainer-float32"].trial.spec
    assert (spec.dtype, spec.args) == ("float32", {})
    assert "trainer-float32" not in {c.experiment.id for c in choices(trainer(), "train")}


def test_what_the_user_set_on_the_trainer_can_be_turned_back() -> None:
    asked = run_of(side("train", engine="fsdp", args={"liger": True, "autocast": True}))
    found = {
        c.experiment.id: c.prepared for c in choices(asked, "train") if c.prepared.likely == ASKED
    }
    assert {name: prepared.trial.spec.args for name, prepared in found.items()} == {
        "liger-off": {"liger": False, "autocast": True},
        "autocast-off": {"liger": True, "autocast": False},
    }


def test_routing_is_replayed_where_it_was_recorded() -> None:
    found = {c.experiment.id: c.prepared.trial for c in choices(trainer(), "train")}
    assert found["routing-replay"].routing_from == "ref"
    run = trainer()
    capture = run.probe.capture.model_copy(update={"routing": False})
    blind = run.model_copy(update={"probe": run.probe.model_copy(update={"capture": capture})})
    assert "routing-replay" not in {c.experiment.id for c in choices(blind, "train")}


def test_an_engine_that_is_not_transformers_has_none_of_its_options() -> None:
    assert {c.experiment.id for c in choices(run_of(), "train")} == {"no-dropout"}


def named(run: RunSpec, *causes: str, suspect: Any = "train") -> str | None:
    choice = next_choice(choices(run, suspect), set(causes))
    return None if choice is None else choice.experiment.id


def test_one_cause_wants_what_takes_it_away() -> None:
    assert named(trainer(), "shift-by-one") is None
    assert named(trainer(), "attention-softcap") == "attention-eager"
    # A plugin is likelier to have done it than the default.
    assert named(trainer(plugin="p.py:f"), "attention-softcap") == "stock-attention"
    # What the user set himself is likelier still.
    asked = trainer(plugin="p.py:f", attn_implementation="sdpa")
    assert named(asked, "attention-softcap") == "attention-eager"


def test_several_causes_want_what_separates_them() -> None:
    run = vllm(kv_cache_dtype="fp8", enforce_eager=False)
    tied = ("kv-cache-quantisation", "decode-prefill-divergence")
    # A quantised cache goes and a divergence stays with a plain cache; both may go otherwise.
    assert named(run, *tied, suspect="decode") == "kv-cache-dtype"
    assert named(trainer(), "logit-scale", "vocab-padding") is None  # nothing tells them apart
    leak = ("packing-leak", "logit-scale")
    assert named(trainer(packing=True), *leak) == "packing-off"


def test_a_scale_of_scores_is_told_from_one_of_the_rotary_embedding() -> None:
    patched = trainer(plugin="p.py:f")
    tied = {"attention-scale", "rope-scaling"}
    open_ones = choices(patched, "train")
    first = next_choice(open_ones, tied)
    assert first is not None
    assert first.experiment.id == "stock-attention"
    # If that changes nothing, the tables alone are put back: with attention beside them, the error
    # would go whichever it is.
    second = next_choice([c for c in open_ones if c is not first], tied)
    assert second is not None
    assert second.experiment.id == "stock-rotary-tables"
    assert {"attention-scale"} <= second.experiment.leaves
    assert named(patched, "rope-scaling") == "stock-rotary"
    assert named(trainer(), *tied) == "attention-eager"


def test_how_likely_a_experiment_matters_goes_before_what_it_separates() -> None:
    order = [c.prepared.likely for c in choices(trainer(plugin="p.py:f", packing=True), "train")]
    assert set(order) == {ASKED, PATCHED, DEFAULT}


def test_a_experiment_belongs_to_the_side_of_its_suspects() -> None:
    sides = {experiment.id: experiment.side for experiment in EXPERIMENTS}
    assert sides["temperature-1"] == "infer"
    assert sides["stock-head"] == "train"
    assert isinstance(EXPERIMENTS[0], Experiment)
