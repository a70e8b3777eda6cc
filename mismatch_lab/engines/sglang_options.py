"""Options of the SGLang engine: SGLang's own server arguments, checked by name and type."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from mismatch_lab.engines.options import SET_BY_US, nearest
from mismatch_lab.errors import InputError
from mismatch_lab.schema import OptionValue, SideSpec

ENVIRONMENT = {
    "SGLANG_DISABLE_REQUEST_LOGGING": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Set where the user has not."""
ORIGINAL_LOGPROB = "SGLANG_RETURN_ORIGINAL_LOGPROB"
OURS = ("original_logprob",)
"""Options that SGLang takes from the environment, and we by name."""

DEFAULT_CONTEXT = 4096
"""Tokens of context when the model allows more: enough for the probes, little memory."""
RUNNING = 64
"""Sequences at once."""

CPU_DEFAULTS: dict[str, OptionValue] = {
    "device": "cpu",
    "attention_backend": "torch_native",
    "sampling_backend": "pytorch",
    "mem_fraction_static": 0.5,
}
NOT_ON_CPU = (
    "enable_deterministic_inference",
    "rl_on_policy_target",
    "enable_return_routed_experts",
    "kv_cache_dtype",
)
"""Arguments that need kernels of a GPU."""


def resolve_options(spec: SideSpec, model_context: int, on_cpu: bool) -> dict[str, Any]:
    """Arguments of SGLang's engine, the user's over our defaults; ours of `OURS` are not in it.

    Raises:
        InputError: SGLang has no such argument, or it is set by an option of ours.
    """
    types = argument_types()
    check_sglang_names(spec.args, types)
    for name, value in spec.args.items():
        if name not in OURS:
            _check_type(name, value, types[name])
        if on_cpu and name in NOT_ON_CPU and value not in (False, "auto"):
            raise InputError(
                f"SGLang's {name} needs a GPU: its kernels for a CPU do not have it.",
                f"Leave out --engine-arg {name}, or run where a GPU is.",
            )
    context = spec.args.get("context_length", min(model_context, DEFAULT_CONTEXT))
    defaults: dict[str, Any] = {
        **(CPU_DEFAULTS if on_cpu else {}),
        "context_length": context,
        "max_running_requests": RUNNING,
        "max_total_tokens": max(4 * int(context), 32768),
        # Hooks see whole sequences, and nothing of one request stands in for another's.
        "chunked_prefill_size": -1,
        "disable_radix_cache": True,
        "disable_cuda_graph": True,  # a captured graph would skip the hooks
        "disable_overlap_schedule": True,
        "grammar_backend": "none",
        "random_seed": 0,
        "log_level": "warning",
    }
    given = {name: value for name, value in spec.args.items() if name not in OURS}
    return {
        **defaults,
        **given,
        "model_path": spec.model,
        "dtype": spec.dtype,
        "trust_remote_code": spec.trust_remote_code,
        "skip_tokenizer_init": True,  # token ids go in and come out
        "skip_server_warmup": True,
    }


def set_environment(spec: SideSpec) -> None:
    """What SGLang reads when it is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    original = spec.args.get("original_logprob")
    if original is not None:
        if not isinstance(original, bool):
            raise InputError(f"Option original_logprob is true or false, not {original!r}.")
        os.environ[ORIGINAL_LOGPROB] = "1" if original else "0"


def returns_original() -> bool:
    """Whether sampled tokens get log-probs from before the temperature."""
    return os.environ.get(ORIGINAL_LOGPROB, "0").lower() in ("1", "true", "yes", "y", "on")


def check_sglang_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise InputError for an argument that SGLang does not have, or that is ours to set."""
    known = {*known, *OURS}
    for name in given:
        if name in (*SET_BY_US, "model_path", "skip_server_warmup"):
            raise InputError(f"--engine-arg {name} is set by an option of its own.")
        if name not in known:
            raise InputError(
                f"SGLang has no server argument {name!r}.",
                f"{nearest(name, known)}See 'python -m sglang.launch_server --help'; write it "
                "with underscores.",
            )


def argument_types() -> dict[str, Any]:
    """Names of SGLang's server arguments, and their types."""
    from sglang.srt.server_args import ServerArgs

    if hasattr(ServerArgs, "__struct_fields__"):
        import msgspec

        return {field.name: field.type for field in msgspec.structs.fields(ServerArgs)}
    from dataclasses import fields  # to 0.5.17

    return {field.name: Any for field in fields(ServerArgs)}


def _check_type(name: str, value: OptionValue, kind: Any) -> None:
    if kind is Any:
        return
    import msgspec

    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"SGLang's {name} cannot be {value!r}: {error}.") from error
    except TypeError:  # a type that msgspec does not check
        return
