"""The engine's settings in the report: who chose them, and which are a matter."""

from __future__ import annotations

from typing import Any

from build_run import run_spec

from mismatch_lab.report.settings import (
    BY_ITSELF,
    ON_THIS_MACHINE,
    TRAINERS_OWN,
    TYPED,
    TYPED_FOR_TRAINER,
    engine_settings,
    trainer_settings,
)
from mismatch_lab.schema import EngineConfig, Manifest, MappedOption, RunSpec

IN_FORCE = {
    "logprobs_mode": "raw_logprobs", "generation_config": "vllm", "enforce_eager": True,
    "max_model_len": 512, "kv_cache_dtype": "fp8", "max_num_seqs": 16, "seed": 0,
    "inherited.top_k": 20, "seed_of_each_request": True,
}  # fmt: skip


def decode(engine: str = "vllm", **options: Any) -> Manifest:
    return Manifest(
        id="decode", side="infer", engine=engine, engine_version="0", model="m",
        dtype="bfloat16", sampling=None, logprob_space="raw", patched=[],
        options=options or IN_FORCE,
        host="h", packages={}, rows=1, tokens=1, wall_s=1.0, arrays_sha256="",
    )  # fmt: skip


def asked(**args: Any) -> RunSpec:
    spec = run_spec("x")
    return spec.model_copy(update={"infer": spec.infer.model_copy(update={"args": args})})


def test_who_chose_what_and_what_matters() -> None:
    typed = MappedOption(source="kv-cache-dtype", target="kv_cache_dtype", value="fp8")
    file = EngineConfig(file="serve.yaml", kind="vllm", engine="vllm", mapped=[typed], left=[])
    spec = asked(kv_cache_dtype="fp8", max_num_seqs=16).model_copy(update={"engine_config": file})
    found = {s.name: s for s in engine_settings(spec, {"decode": decode()})}
    assert found["kv_cache_dtype"].chosen_by == "serve.yaml: kv-cache-dtype"
    assert found["max_num_seqs"].chosen_by == TYPED
    assert found["logprobs_mode"].chosen_by == BY_ITSELF
    assert found["enforce_eager"].chosen_by.startswith(ON_THIS_MACHINE)
    assert {name for name, s in found.items() if s.matters} == {
        "kv_cache_dtype", "logprobs_mode", "inherited.top_k",
    }  # fmt: skip
    # The seed stands as the engine has it, and a fact of the run is no setting.
    assert not found.keys() & {"seed", "seed_of_each_request"}


def test_only_of_engines_that_choose_by_themselves() -> None:
    spec = run_spec("x")
    hf = spec.model_copy(update={"infer": spec.infer.model_copy(update={"engine": "hf"})})
    assert engine_settings(hf, {"decode": decode()}) == []
    assert engine_settings(spec, {}) == []


def test_sglangs_settings_and_what_a_cpu_cannot_do() -> None:
    spec = asked(original_logprob=True)
    spec = spec.model_copy(update={"infer": spec.infer.model_copy(update={"engine": "sglang"})})
    options = {
        "disable_radix_cache": False, "disable_overlap_schedule": False, "page_size": 1,
        "disable_cuda_graph": True, "chunked_prefill_size": 4096, "original_logprob": True,
        "attention_backend": "torch_native", "platform": "CPU", "log_level": "warning",
    }  # fmt: skip
    found = {s.name: s for s in engine_settings(spec, {"decode": decode("sglang", **options)})}
    assert found.keys() == options.keys() - {"page_size", "platform", "log_level"}
    assert {name for name, s in found.items() if s.matters} == {
        "disable_radix_cache", "disable_overlap_schedule", "chunked_prefill_size",
        "original_logprob",
    }  # fmt: skip
    assert found["disable_cuda_graph"].chosen_by == f"{ON_THIS_MACHINE}: there are none on a CPU"
    assert found["disable_radix_cache"].chosen_by == BY_ITSELF


def test_the_trainers_settings() -> None:
    spec = run_spec("x")
    train = spec.train.model_copy(
        update={"engine": "fsdp", "args": {"packing": True, "master_dtype": "float32"}}
    )
    options = {
        "packing": True, "master_dtype": "float32", "param_dtype": "bfloat16", "threads": 0,
        "attn_implementation": "eager", "liger": False, "gradient_checkpointing": False,
    }  # fmt: skip
    spec = spec.model_copy(update={"train": train})
    found = {s.name: s for s in trainer_settings(spec, {"train": decode("fsdp", **options)})}
    assert found.keys() == options.keys() - {"threads"}
    assert {name for name, s in found.items() if s.matters} == {"packing", "master_dtype"}
    assert found["packing"].chosen_by == TYPED_FOR_TRAINER
    assert found["liger"].chosen_by == TRAINERS_OWN
    other = spec.model_copy(update={"train": train.model_copy(update={"engine": "fake"})})
    assert trainer_settings(other, {"train": decode("fake", noise=1.0)}) == []
