"""Options of the SGLang engine: SGLang's own server arguments, checked by name and type."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

from mismatch_lab.engines.options import SET_BY_US
from mismatch_lab.engines.settings import CONTEXT_ON_CPU, ON_CPU
from mismatch_lab.errors import InputError, nearest
from mismatch_lab.schema import OptionValue, SideSpec

ENVIRONMENT = {
    "SGLANG_DISABLE_REQUEST_LOGGING": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Set where the user has not."""
ORIGINAL_LOGPROB = "SGLANG_RETURN_ORIGINAL_LOGPROB"
OURS = ("original_logprob",)
"""Options that SGLang takes from the environment, and we by name."""

NOT_ON_CPU = (
    "enable_deterministic_inference",
    "rl_on_policy_target",
    "enable_return_routed_experts",
    "kv_cache_dtype",
)
"""Arguments that need kernels of a GPU."""


def resolve_options(spec: SideSpec, model_context: int, on_cpu: bool) -> dict[str, Any]:
    """Arguments of `sglang.Engine`: the user's, SGLang's own defaults, and `ON_CPU` on a CPU.

    Those of `OURS` are not in it.

    Args:
        spec: the side; an argument that is an object comes as its JSON text.
        model_context: tokens of context that the model allows.
        on_cpu: whether SGLang runs on a CPU.

    Raises:
        InputError: SGLang has no such argument, or it is set by an option of ours.
    """
    types = argument_types()
    check_sglang_names(spec.args, types)
    given: dict[str, Any] = {}
    for name, value in spec.args.items():
        if name not in OURS:
            given[name] = _typed(name, value, types[name])
        if on_cpu and name in NOT_ON_CPU and value not in (False, "auto"):
            raise InputError(
                f"SGLang's {name} needs a GPU: its kernels for a CPU do not have it.",
                f"Leave out --engine-arg {name}, or run where a GPU is.",
            )
    defaults: dict[str, Any] = {"grammar_backend": "none", "random_seed": 0, "log_level": "warning"}
    if on_cpu:
        defaults |= {name: value for name, (value, _) in ON_CPU["sglang"].items()}
        context = spec.args.get("context_length", min(model_context, CONTEXT_ON_CPU))
        defaults |= {"context_length": context, "max_total_tokens": _tokens_in_cache(int(context))}
    return {
        **defaults,
        **given,
        "model_path": spec.model,
        "dtype": spec.dtype,
        "trust_remote_code": spec.trust_remote_code,
        "skip_tokenizer_init": True,  # token ids go in and come out
        "skip_server_warmup": True,
    }


def _tokens_in_cache(context: int) -> int:
    """Room for the rows of a probe, four of the longest at least."""
    return max(4 * context, 8 * CONTEXT_ON_CPU)


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


def _typed(name: str, value: OptionValue, kind: Any) -> Any:
    """An option as SGLang takes it; what it takes as an object or a list comes as JSON text."""
    try:
        return _checked(name, value, kind)
    except InputError:
        if not isinstance(value, str) or not value.startswith(("{", "[")):
            raise
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError as error:
        raise InputError(f"--engine-arg {name} is no JSON: {error}.") from error
    return _checked(name, parsed, kind)


def _checked(name: str, value: Any, kind: Any) -> Any:
    if kind is Any:
        return value
    import msgspec

    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"SGLang's {name} cannot be {value!r}: {error}.") from error
    except TypeError:  # a type that msgspec does not check
        pass
    return value


def settings_in_force(engine: Any) -> dict[str, OptionValue]:
    """SGLang's settings after it resolved its own defaults, of those that matter to log-probs.

    A version that keeps one elsewhere leaves it out.
    """
    held = engine.server_args
    resolved = held.resolved_dict() if hasattr(held, "resolved_dict") else vars(held)  # to 0.5.17
    found: dict[str, OptionValue] = {}
    for name in IN_FORCE:
        value = resolved.get(name)
        if value is not None:
            found[name] = value if isinstance(value, (bool, int, float)) else str(value)
    found["context_length"] = int(engine.tokenizer_manager.model_config.context_len)
    return found


IN_FORCE = (
    "attention_backend", "prefill_attention_backend", "decode_attention_backend",
    "sampling_backend", "moe_runner_backend", "kv_cache_dtype", "page_size", "quantization",
    "disable_radix_cache", "chunked_prefill_size", "disable_overlap_schedule",
    "disable_cuda_graph", "enable_torch_compile", "enable_deterministic_inference",
    "rl_on_policy_target", "speculative_algorithm", "preferred_sampling_params",
    "sampling_defaults", "max_running_requests", "tp_size", "dp_size", "ep_size", "random_seed",
)  # fmt: skip
