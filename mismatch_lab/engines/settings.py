"""An engine's settings: as configured, and what hooks need of them. Light: no engine is imported.

Log-probs are those of the engine as it is configured. Hooks (hidden states, router choices, the
full vocabulary) need eager code and whole prompts; where the engine is configured otherwise, it is
started a second time with `HOOKABLE`, and what both say is compared.
"""

from __future__ import annotations

from dataclasses import dataclass

from mismatch_lab.schema import OptionValue, SideSpec

HOOKABLE: dict[str, dict[str, OptionValue]] = {
    "vllm": {
        "enforce_eager": True,  # compiled graphs skip hooks
        "enable_chunked_prefill": False,  # hooks see whole sequences
        "enable_prefix_caching": False,
    },
}
"""engine -> options under which its modules can be hooked."""

NEED_A_START = ("enforce_eager", "enable_chunked_prefill")
"""Those of them without which nothing can be hooked. A prefix cache is in nobody's way: a request
that asks for log-probs of its prompt reads none."""

_COMPILED = ("compilation_config", "max_num_batched_tokens")
"""Options that speak of compiled graphs and of chunks: a start without those has no use for them,
and vLLM refuses a batch shorter than the context where prompts are not cut."""

CONTEXT_ON_CPU = 4096
"""Tokens of context on a CPU where the model allows more: enough for most probes, and a cache of
1 GiB (`vllm_options.ENVIRONMENT`) has to hold a row of that length."""

ON_CPU = {
    "enforce_eager": (True, "compiling takes minutes on a CPU"),
    "enable_chunked_prefill": (
        False,
        "vLLM 0.32 on a CPU ends with an error where a prompt with a seed is cut in chunks",
    ),
    "max_model_len": (CONTEXT_ON_CPU, "the cache of a CPU engine is small"),
}
"""Option -> (what holds on a CPU where the user says nothing, why not vLLM's own default)."""

DEFAULTS: dict[str, dict[str, OptionValue]] = {
    "vllm": {
        "enforce_eager": False,
        "enable_chunked_prefill": True,
        "enable_prefix_caching": True,
        "logprobs_mode": "raw_logprobs",
        "generation_config": "auto",
        "kv_cache_dtype": "auto",
    },
}
"""engine -> what holds where the user says nothing, of what moves log-probs (`ON_CPU` over it)."""


def held(spec: SideSpec, on_gpu: bool) -> dict[str, OptionValue]:
    """Options in force of those that are known here: the user's over the engine's own defaults."""
    defaults = DEFAULTS.get(spec.engine, {})
    machine = {} if on_gpu else {name: value for name, (value, _) in ON_CPU.items()}
    return {**defaults, **(machine if defaults else {}), **spec.args}


PLAIN_VLLM: dict[str, OptionValue] = {
    **HOOKABLE["vllm"],
    "logprobs_mode": "processed_logprobs",
    "generation_config": "vllm",
}
"""vLLM as the scorecard asks for it, so that a case holds the fault that was planted and no other:
eager, log-probs of what was drawn from, and nothing inherited from the checkpoint."""


def hookable(spec: SideSpec) -> SideSpec:
    """The same engine, weights and plugin, started so that its modules can be hooked."""
    wanted = HOOKABLE.get(spec.engine, {})
    args = {name: value for name, value in spec.args.items() if name not in _COMPILED}
    return spec.model_copy(update={"args": {**args, **wanted}})


def second_start(spec: SideSpec, on_gpu: bool) -> SideSpec | None:
    """What hooks need beside the engine as configured; None where it can be hooked itself.

    Args:
        spec: the engine as configured.
        on_gpu: whether it runs on one, where vLLM compiles and cuts prompts unless told not to.
    """
    if spec.engine not in HOOKABLE:
        return None
    options, wanted = held(spec, on_gpu), HOOKABLE[spec.engine]
    hooked = all(options[name] == wanted[name] for name in NEED_A_START)
    return None if hooked else hookable(spec)


@dataclass(frozen=True)
class Concern:
    """What a setting of the engine has to do with the trainer's log-probs."""

    unlike: tuple[OptionValue, ...]
    """Values that are no matter."""
    why: str


CONCERNS: dict[str, Concern] = {
    "logprobs_mode": Concern(
        ("processed_logprobs",),
        "raw log-probs are taken before temperature and truncation: at any temperature but 1 they "
        "are not those of the distribution that tokens were drawn from",
    ),
    "generation_config": Concern(
        ("vllm",),
        "penalties, top-k and min-p of the checkpoint's generation_config.json change what is "
        "drawn; trainers know nothing of them",
    ),
    "override_generation_config": Concern((), "truncation and penalties that trainers leave out"),
    "enable_prefix_caching": Concern(
        (False,), "a cache that outlives an update of the weights gives old keys and values"
    ),
    "enforce_eager": Concern((True,), "compiled graphs and fused kernels are not what is hooked"),
    "enable_chunked_prefill": Concern((False,), "a prompt in chunks goes through other kernels"),
    "kv_cache_dtype": Concern(("auto",), "trainers keep keys and values in the model's dtype"),
    "quantization": Concern((), "trainers hold the weights as they are"),
    "speculative_config": Concern((), "draft models: which policy is it that drew the token"),
    "max_model_len": Concern((), "longer rows are refused; rotary scaling may depend on it"),
    "attention_backend": Concern((), "windows, sinks and softcaps are the kernel's"),
}  # fmt: skip
"""Setting -> when it is a matter. Shown in the report whatever their value is."""
