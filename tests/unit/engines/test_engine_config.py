"""`--engine-config`: each option of the rollout part is mapped, left for a reason, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mismatch_lab.engines.engine_config import (
    args_of,
    dtype_of,
    read_engine_config,
    sampling_of,
    source_of,
)
from mismatch_lab.errors import InputError

VERL = """
actor_rollout_ref:
  actor: {ppo_mini_batch_size: 64}
  rollout:
    name: vllm
    temperature: 0.8
    top_k: 20
    enforce_eager: true
    tensor_model_parallel_size: 2
    n: 8
    engine_kwargs: {vllm: {kv-cache-dtype: fp8, swap_space: null}}
"""

TRL = """
learning_rate: 1.0e-6
use_vllm: true
vllm_mode: colocate
vllm_max_model_length: 2048
temperature: 0.9
repetition_penalty: 1.1
generation_kwargs: {min_p: 0.05}
"""

PRIME = """
[orchestrator.train.sampling]
temperature = 0.7
[inference.vllm]
model = "some/model"
max_model_len = 2048
max-num-seqs = 64
tool_call_parser = "auto"
"""

SLIME = """#!/bin/bash
ROLLOUT_ARGS=(
   --rollout-temperature 0.8
   --rollout-top-k -1
   --rollout-batch-size 32   # of training
)
SGLANG_ARGS=(
   --sglang-mem-fraction-static 0.7
   --sglang-disable-radix-cache
   --sglang-attention-backend fa3
)
python train.py ${ROLLOUT_ARGS[@]}
"""


def read(tmp_path: Path, text: str, name: str = "config.yaml", engine: str | None = None):  # type: ignore[no-untyped-def]
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_engine_config(path, engine)


def test_vllms_own_file(tmp_path: Path) -> None:
    config = read(tmp_path, "max-model-len: 1024\nenforce-eager: true\nport: 8000\nseed: null\n")
    assert (config.kind, config.engine) == ("vllm", "vllm")
    assert args_of(config) == {"max_model_len": 1024, "enforce_eager": True}
    assert [one.source for one in config.left] == ["port"]


def test_sglangs_own_file_is_known_by_its_names(tmp_path: Path) -> None:
    config = read(tmp_path, "disable-radix-cache: true\nkv-cache-dtype: fp8_e4m3\n")
    assert config.engine == "sglang"
    assert args_of(config) == {"disable_radix_cache": True, "kv_cache_dtype": "fp8_e4m3"}


def test_verl_with_what_verl_sets_by_itself(tmp_path: Path) -> None:
    config = read(tmp_path, VERL)
    assert (config.kind, config.engine, dtype_of(config)) == ("verl", "vllm", "bfloat16")
    assert sampling_of(config) == {"temperature": 0.8}
    args = args_of(config)
    assert args["enforce_eager"] is True  # the file's over verl's default
    assert (args["logprobs_mode"], args["tensor_parallel_size"]) == ("processed_logprobs", 2)
    assert args["kv_cache_dtype"] == "fp8"
    assert json.loads(str(args["override_generation_config"])) == {"top_k": 20}
    sources = {one.target: one.source for one in config.mapped}
    assert sources["logprobs_mode"] == "verl itself"
    assert sources["enforce_eager"] == "actor_rollout_ref.rollout.enforce_eager"
    assert "actor_rollout_ref.rollout.n" in [one.source for one in config.left]


def test_verl_with_sglang_in_sglangs_words(tmp_path: Path) -> None:
    given = {
        "name": "sglang", "temperature": 0.8, "top_k": 20, "enforce_eager": True,
        "max_num_seqs": 64, "gpu_memory_utilization": 0.6, "tensor_model_parallel_size": 2,
        "max_model_len": 2048, "enable_chunked_prefill": True, "n": 8,
        "engine_kwargs": {"vllm": {"swap_space": 4}, "sglang": {"attention_backend": "triton"}},
    }  # fmt: skip
    config = read(tmp_path, json.dumps({"actor_rollout_ref": {"rollout": given}}))
    assert (config.kind, config.engine, dtype_of(config)) == ("verl", "sglang", "bfloat16")
    assert sampling_of(config) == {"temperature": 0.8}
    assert args_of(config) == {
        "attention_backend": "triton",  # the file's over verl's fa3
        "disable_cuda_graph": True, "max_running_requests": 64, "mem_fraction_static": 0.6,
        "tp_size": 2, "preferred_sampling_params": '{"top_k": 20}',
    }  # fmt: skip
    whole = "actor_rollout_ref.rollout"
    assert source_of(config, "disable_cuda_graph") == f"{whole}.enforce_eager"
    assert source_of(config, "preferred_sampling_params") == f"{whole}.top_k"
    left = {one.source.removeprefix(f"{whole}."): one.why for one in config.left}
    assert left.keys() == {"name", "n", "max_model_len", "enable_chunked_prefill"}
    assert left["enable_chunked_prefill"] == "verl hands it to vLLM alone"


def test_verl_with_nothing_said_of_sglang(tmp_path: Path) -> None:
    config = read(tmp_path, "rollout: {name: sglang}")
    assert args_of(config) == {"disable_cuda_graph": False, "attention_backend": "fa3"}
    assert {source_of(config, name) for name in args_of(config)} == {"verl itself"}


def test_trl_alone_what_is_of_its_rollouts(tmp_path: Path) -> None:
    config = read(tmp_path, TRL)
    assert config.kind == "trl"
    assert sampling_of(config) == {"temperature": 0.9}
    args = args_of(config)
    assert (args["max_model_len"], args["generation_config"]) == (2048, "vllm")
    asked = json.loads(str(args["override_generation_config"]))
    assert asked == {"repetition_penalty": 1.1, "min_p": 0.05}


def test_prime_rl_hands_vllms_own_names_on(tmp_path: Path) -> None:
    config = read(tmp_path, PRIME, "rl.toml")
    assert config.kind == "prime-rl"
    assert sampling_of(config) == {"temperature": 0.7}
    assert args_of(config) == {
        "logprobs_mode": "processed_logprobs", "max_model_len": 2048, "max_num_seqs": 64,
    }  # fmt: skip


def test_slime_from_the_script_that_starts_it(tmp_path: Path) -> None:
    config = read(tmp_path, SLIME, "run.sh")
    assert (config.kind, config.engine) == ("slime", "sglang")
    assert sampling_of(config) == {"temperature": 0.8}
    assert args_of(config) == {
        "mem_fraction_static": 0.7, "disable_radix_cache": True, "attention_backend": "fa3",
    }  # fmt: skip
    assert [one.source for one in config.left] == ["--rollout_batch_size"]


def test_slimes_router_is_left_and_lists_of_numbers_are_taken_whole(tmp_path: Path) -> None:
    text = """SGLANG_ARGS=(
       --sglang-router-ip 10.0.0.1 --sglang-server-concurrency 512
       --sglang-cuda-graph-bs-decode 1 2 4
       --sglang-expert-parallel-size 8
       --sglang-enable-deterministic-inference
    )
    """
    config = read(tmp_path, text, "run.sh")
    assert args_of(config) == {
        "cuda_graph_bs_decode": "[1, 2, 4]", "ep_size": 8, "enable_deterministic_inference": True,
    }  # fmt: skip
    assert [one.source for one in config.left] == [
        "--sglang_router_ip", "--sglang_server_concurrency",
    ]  # fmt: skip


def test_sglangs_own_names_of_its_sizes(tmp_path: Path) -> None:
    text = "tensor-parallel-size: 2\nmem-fraction-static: 0.8\n"
    assert args_of(read(tmp_path, text)) == {"tp_size": 2, "mem_fraction_static": 0.8}


@pytest.mark.parametrize(
    ("text", "name", "engine", "says"),
    [
        ("actor_rollout_ref: {rollout: {enforce_eagre: true}}", "c.yaml", None,
         "actor_rollout_ref.rollout.enforce_eagre is not a known option"),
        ("actor_rollout_ref: {rollout: {dtype: '${model.dtype}'}}", "c.yaml", None, "resolve"),
        ("actor_rollout_ref: {rollout: 3}", "c.yaml", None, "not a mapping"),
        ("vllm_speling: 1", "c.yaml", None, "vllm_speling is not a known option of trl"),
        ("disable_radix_cache: true", "c.yaml", "vllm", "configures sglang, not vllm"),
        ("- 1", "c.yaml", None, "holds no options"),
        ("a: [", "c.yaml", None, "cannot be parsed"),
        ("= 3", "c.toml", None, "cannot be parsed"),
        ("[inference.model]\nname = 'x'\n[model]\n", "c.toml", None, "no file that is understood"),
        ("--sglang-dtype 'half", "c.sh", None, "cannot be parsed as a shell script"),
        ("--sglang-dtype $DTYPE", "c.sh", None, "a variable of the script"),
        ("--sglang-cuda-graph-bs 1 2 $(seq 8 8 64)", "c.sh", None, "a variable of the script"),
        ("--sglang-config groups.yaml", "c.sh", None, "is not read"),
        ("rollout: {name: trtllm}", "c.yaml", None, "verl's rollouts with trtllm are not read"),
        ("rollout: {name: sglang, enforce_eagre: 1}", "c.yaml", None,
         "rollout.enforce_eagre is not a known option of verl's rollouts"),
        ("echo", "c.sh", None, "sets nothing of the engine"),
        ("seed: 2020-01-01", "c.yaml", None, "no option's value"),
        ("actor_rollout_ref: {rollout: {engine_kwargs: {vllm: 3}}}", "c.yaml", None,
         "actor_rollout_ref.rollout.engine_kwargs.vllm is not a mapping"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(
    tmp_path: Path, text: str, name: str, engine: str | None, says: str
) -> None:
    with pytest.raises(InputError) as refused:
        read(tmp_path, text, name, engine)
    assert says in f"{refused.value.problem} {refused.value.hint}"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_engine_config(tmp_path / "none.yaml")


def test_a_table_that_is_none_is_passed_over(tmp_path: Path) -> None:
    text = "orchestrator = 3\n[inference.vllm]\ntrust_remote_code = true\nmax_model_len = 64\n"
    config = read(tmp_path, text, "rl.toml")
    assert args_of(config)["max_model_len"] == 64
    assert [one.source for one in config.left] == ["inference.vllm.trust_remote_code"]


def test_where_an_argument_comes_from(tmp_path: Path) -> None:
    config = read(tmp_path, TRL)
    assert source_of(config, "max_model_len") == "vllm_max_model_length"
    assert source_of(config, "override_generation_config") == "repetition_penalty, min_p"
    assert source_of(config, "logprobs_mode") == "trl itself"
