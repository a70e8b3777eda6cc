"""An engine's settings: as configured, and what hooks need of them. Light: no engine is imported.

Log-probs are those of the engine as it is configured. Hooks (hidden states, router choices, the
full vocabulary) need eager code and whole prompts; where the engine is configured otherwise, it is
started a second time with `HOOKABLE`, and what both say is compared.
"""

from __future__ import annotations

from mismatch_lab.schema import OptionValue, SideSpec

HOOKABLE: dict[str, dict[str, OptionValue]] = {
    "vllm": {
        "enforce_eager": True,  # compiled graphs skip hooks
        "enable_chunked_prefill": False,  # hooks see whole sequences
        "enable_prefix_caching": False,
    },
}
"""engine -> options under which its modules can be hooked."""

_COMPILED = ("compilation_config", "max_num_batched_tokens")
"""Options that speak of compiled graphs and of chunks: a start without those has no use for them,
and vLLM refuses a batch shorter than the context where prompts are not cut."""

_ON_GPU: dict[str, dict[str, OptionValue]] = {
    "vllm": {"enforce_eager": False, "enable_chunked_prefill": True},
}
"""engine -> what holds on a GPU where the user says nothing; on a CPU `HOOKABLE` does
(`vllm_options.ON_CPU`)."""

DEFAULTS: dict[str, dict[str, OptionValue]] = {
    "vllm": {
        "enable_prefix_caching": True,
        "logprobs_mode": "raw_logprobs",
        "generation_config": "auto",
        "kv_cache_dtype": "auto",
    },
}
"""engine -> what holds on any machine where the user says nothing, of what moves log-probs."""


def held(spec: SideSpec, on_gpu: bool) -> dict[str, OptionValue]:
    """Options in force of those that are known here: the user's over the engine's own defaults."""
    machine = _ON_GPU if on_gpu else HOOKABLE
    defaults = {**machine.get(spec.engine, {}), **DEFAULTS.get(spec.engine, {})}
    return {**defaults, **spec.args}


PLAIN_VLLM: dict[str, OptionValue] = {
    "logprobs_mode": "processed_logprobs",
    "generation_config": "vllm",
    "enable_prefix_caching": False,
}
"""vLLM as the scorecard asks for it, so that a case holds the fault that was planted and no other:
log-probs of what was drawn from, and nothing inherited from the checkpoint."""


def hookable(spec: SideSpec) -> SideSpec:
    """The same engine, weights and plugin, started so that its modules can be hooked."""
    wanted = HOOKABLE.get(spec.engine, {})
    args = {name: value for name, value in spec.args.items() if name not in _COMPILED}
    return spec.model_copy(update={"args": {**args, **wanted}})


def second_start(spec: SideSpec, on_gpu: bool) -> SideSpec | None:
    """What hooks need beside the engine as configured; None where it can be hooked itself.

    A prefix cache alone needs none: a request that asks for log-probs of its prompt reads none.

    Args:
        spec: the engine as configured.
        on_gpu: whether it runs on one, where vLLM compiles and cuts prompts unless told not to.
    """
    if spec.engine not in HOOKABLE:
        return None
    options, wanted = held(spec, on_gpu), HOOKABLE[spec.engine]
    hooked = all(options[name] == wanted[name] for name in _ON_GPU[spec.engine])
    return None if hooked else hookable(spec)
