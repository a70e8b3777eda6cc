"""Options of the vLLM engine: vLLM's own engine arguments, checked by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from mismatch_lab.engines.options import check_vllm_names
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

DEFAULT_CONTEXT = 4096
"""Tokens of context when the model allows more: enough for the probes, little memory."""

NEUTRAL_SAMPLING: dict[str, tuple[float, ...]] = {
    "repetition_penalty": (1.0,),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
    "top_k": (0, -1),
    "min_p": (0.0,),
}
"""Sampling fields of vLLM that a run does not set, with the values that change nothing."""


def resolve_options(spec: SideSpec, model_context: int) -> dict[str, Any]:
    """Arguments of `vllm.LLM`, the user's over our defaults.

    Raises:
        InputError: vLLM has no such argument, or it is set by an option of ours.
    """
    from vllm.engine.arg_utils import EngineArgs

    check_vllm_names(spec.args, (field.name for field in fields(EngineArgs)))
    context = spec.args.get("max_model_len", min(model_context, DEFAULT_CONTEXT))
    if not isinstance(context, int):
        raise InputError(f"vLLM's max_model_len is a number of tokens, not {context!r}.")
    defaults: dict[str, Any] = {
        "enforce_eager": True,  # compiled graphs would skip the hooks
        "enable_prefix_caching": False,
        "max_model_len": context,
        # A prefill is never cut in chunks: hooks see whole sequences, and a cut one with a seed
        # kills vLLM 0.32 on a CPU ("CPU Generator does not use offset").
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(context, 4096),
        "max_num_seqs": 64,
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",  # no penalties inherited from the checkpoint
        "seed": 0,
    }
    return {
        **defaults,
        **spec.args,
        "model": spec.model,
        "dtype": spec.dtype,
        "trust_remote_code": spec.trust_remote_code,
        "disable_log_stats": True,
    }


def inherited_sampling(llm: Any, generation_config: str) -> dict[str, OptionValue]:
    """Sampling fields that vLLM's server takes from the checkpoint where a request sets none.

    A run sets temperature, top-p, length and seed itself; penalties, top-k and min-p are left.
    Empty for `generation_config="vllm"`, which takes nothing from the checkpoint.
    """
    if generation_config == "vllm":
        return {}
    found = llm.get_default_sampling_params()
    return {
        name: value
        for name, neutral in NEUTRAL_SAMPLING.items()
        if (value := getattr(found, name)) not in neutral
    }
