"""Options of the vLLM engine: vLLM's own engine arguments, checked by name."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from mismatch_lab.engines.options import check_vllm_names
from mismatch_lab.engines.settings import CONTEXT_ON_CPU, ON_CPU
from mismatch_lab.errors import InputError
from mismatch_lab.schema import OptionValue, SideSpec

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the model in this process, where hooks reach it
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
"""Set where the user has not."""

NEUTRAL_SAMPLING: dict[str, tuple[float, ...]] = {
    "repetition_penalty": (1.0,),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
    "top_k": (0, -1),
    "min_p": (0.0,),
}
"""Sampling fields of vLLM that a run does not set, with the values that change nothing."""


def resolve_options(spec: SideSpec, model_context: int, on_cpu: bool) -> dict[str, Any]:
    """Arguments of `vllm.LLM`: the user's, and vLLM's own defaults but for `ON_CPU` on a CPU.

    Args:
        spec: the side; an argument that is an object comes as its JSON text.
        model_context: tokens of context that the model allows.
        on_cpu: whether vLLM runs on a CPU.

    Raises:
        InputError: vLLM has no such argument, or it is set by an option of ours.
    """
    from vllm.engine.arg_utils import EngineArgs

    check_vllm_names(spec.args, (field.name for field in fields(EngineArgs)))
    context = spec.args.get("max_model_len", model_context)
    if not isinstance(context, int):
        raise InputError(f"vLLM's max_model_len is a number of tokens, not {context!r}.")
    arguments: dict[str, Any] = {}
    if on_cpu:
        arguments = {name: value for name, (value, _) in ON_CPU["vllm"].items()}
        arguments["max_model_len"] = min(context, CONTEXT_ON_CPU)
    arguments |= {name: _parsed(name, value) for name, value in spec.args.items()}
    if arguments.get("enable_chunked_prefill") is False:
        # What is not cut has to fit into a batch.
        length = arguments.get("max_model_len", context)
        arguments.setdefault("max_num_batched_tokens", max(int(length), CONTEXT_ON_CPU))
    return arguments | {
        "model": spec.model,
        "dtype": spec.dtype,
        "trust_remote_code": spec.trust_remote_code,
        "disable_log_stats": True,
    }


def _parsed(name: str, value: OptionValue) -> Any:
    """An option; what is written as a JSON object or list is one."""
    if not isinstance(value, str) or not value.startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise InputError(f"--engine-arg {name} is no JSON: {error}.") from error


def settings_in_force(llm: Any) -> dict[str, OptionValue]:
    """vLLM's settings after it resolved its own defaults, of those that matter to log-probs.

    Names are those of its engine arguments. A version that keeps one elsewhere leaves it out.
    """
    config = llm.llm_engine.vllm_config
    found: dict[str, OptionValue] = {}
    for part, names in IN_FORCE.items():
        held = getattr(config, part, None)
        for argument, attribute in names.items():
            value = getattr(held, attribute, None)
            if value is not None:
                found[argument] = value if isinstance(value, (bool, int, float)) else str(value)
    return found


IN_FORCE = {
    "model_config": {
        "max_model_len": "max_model_len",
        "enforce_eager": "enforce_eager",
        "logprobs_mode": "logprobs_mode",
        "generation_config": "generation_config",
        "quantization": "quantization",
        "seed": "seed",
    },
    "cache_config": {
        "enable_prefix_caching": "enable_prefix_caching",
        "kv_cache_dtype": "cache_dtype",
        "block_size": "block_size",
    },
    "scheduler_config": {
        "enable_chunked_prefill": "enable_chunked_prefill",
        "max_num_batched_tokens": "max_num_batched_tokens",
        "max_num_seqs": "max_num_seqs",
        "async_scheduling": "async_scheduling",
    },
    "parallel_config": {
        "tensor_parallel_size": "tensor_parallel_size",
        "data_parallel_size": "data_parallel_size",
        "enable_expert_parallel": "enable_expert_parallel",
    },
    "attention_config": {"attention_backend": "backend"},
}
"""Part of vLLM's configuration -> engine argument -> attribute that holds it."""


def inherited_sampling(llm: Any) -> dict[str, OptionValue]:
    """Sampling fields that vLLM's server takes from the checkpoint where a request sets none.

    A run sets temperature, top-p, length and seed itself; penalties, top-k and min-p are left.
    With `generation_config="vllm"` only what `override_generation_config` says.
    """
    found = llm.get_default_sampling_params()
    return {
        name: value
        for name, neutral in NEUTRAL_SAMPLING.items()
        if (value := getattr(found, name)) not in neutral
    }
