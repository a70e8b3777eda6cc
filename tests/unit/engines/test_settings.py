"""Which settings hold, and when hooks need a start of their own."""

from __future__ import annotations

from typing import Any

import pytest

from mismatch_lab.engines.settings import held, hookable, second_start
from mismatch_lab.schema import SideSpec


def engine(name: str = "vllm", **args: Any) -> SideSpec:
    return SideSpec(side="infer", engine=name, model="m", dtype="bfloat16", args=args)


@pytest.mark.parametrize(
    ("args", "on_gpu", "twice"),
    [
        ({}, False, False),  # on a CPU vLLM runs eagerly here
        ({}, True, True),  # compiled, and prompts cut in chunks
        ({"enforce_eager": True}, True, True),  # still in chunks
        ({"enforce_eager": True, "enable_chunked_prefill": False}, True, False),
        ({"enforce_eager": False}, False, True),
        ({"enable_chunked_prefill": True}, False, True),
        ({"enable_prefix_caching": True}, False, False),
    ],
)
def test_hooks_need_a_second_start_of_what_is_not_eager(
    args: dict[str, Any], on_gpu: bool, twice: bool
) -> None:
    assert (second_start(engine(**args), on_gpu) is not None) == twice


@pytest.mark.parametrize(
    ("args", "on_gpu", "twice"),
    [
        ({}, False, False),  # no graphs, and a chunk holds a row
        ({}, True, True),
        ({"disable_cuda_graph": True}, True, True),  # still in chunks
        ({"disable_cuda_graph": True, "chunked_prefill_size": -1}, True, False),
        ({"chunked_prefill_size": 64}, False, True),
        ({"context_length": 8192}, False, True),  # two chunks of 4,096
        ({"context_length": 8192, "chunked_prefill_size": 8192}, False, False),
        ({"disable_radix_cache": False, "disable_overlap_schedule": False}, False, False),
    ],
)
def test_sglang_is_started_twice_where_it_has_graphs_or_cuts_rows(
    args: dict[str, Any], on_gpu: bool, twice: bool
) -> None:
    assert (second_start(engine("sglang", **args), on_gpu) is not None) == twice


def test_sglangs_second_start_has_neither_graphs_nor_what_speaks_of_them() -> None:
    given = {
        "cuda_graph_max_bs_decode": 8, "enable_torch_compile": True, "attention_backend": "fa3",
        "disable_overlap_schedule": False,
    }  # fmt: skip
    found = hookable(engine("sglang", **given))
    assert found.args == {
        "attention_backend": "fa3", "disable_cuda_graph": True, "chunked_prefill_size": -1,
        "disable_radix_cache": True, "disable_overlap_schedule": True,
    }  # fmt: skip


def test_an_engine_whose_code_is_always_eager_needs_none() -> None:
    assert second_start(engine("hf"), on_gpu=True) is None


def test_the_second_start_keeps_what_is_not_in_the_way_of_hooks() -> None:
    spec = engine(kv_cache_dtype="fp8", max_num_batched_tokens=512, compilation_config="{}")
    found = hookable(spec)
    assert found.args == {
        "kv_cache_dtype": "fp8", "enforce_eager": True, "enable_chunked_prefill": False,
        "enable_prefix_caching": False,
    }  # fmt: skip
    assert found.model_copy(update={"args": spec.args}) == spec


def test_what_the_user_says_stands_over_what_the_engine_does_by_itself() -> None:
    by_itself = held(engine(), on_gpu=True)
    assert (by_itself["logprobs_mode"], by_itself["enforce_eager"]) == ("raw_logprobs", False)
    asked = held(engine(logprobs_mode="processed_logprobs"), on_gpu=True)
    assert asked == by_itself | {"logprobs_mode": "processed_logprobs"}
