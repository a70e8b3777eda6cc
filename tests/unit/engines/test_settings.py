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
