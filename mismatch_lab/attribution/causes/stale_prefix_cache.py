"""Cached prefixes were computed with old weights."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="stale-prefix-cache",
    family="cache",
    title="Cached prefixes were computed with old weights",
    mechanism=(
        "The engine keeps keys and values of prompts it has seen. After a weight update they "
        "belong to the old policy, but a request with the same prefix still uses them."
    ),
    signature=(
        "Only after a weight update, only in requests that hit the cache. Differences are largest "
        "right after the prefix and decay. Weight fingerprints of both sides agree. It grows with "
        "the distance between old and new weights and disappears when the engine restarts."
    ),
    confirmation=(
        "Reset the prefix cache (vLLM: reset_prefix_cache, SGLang: flush_cache) or sample with "
        "--engine-arg enable_prefix_caching=false: the difference falls to the floor."
    ),
    remedy_id="flush-prefix-cache",
    remedy=(
        "Reset the prefix cache with every weight update, including updates in flight, or switch "
        "prefix caching off."
    ),
    remedies={
        "verl": (
            "Set actor_rollout_ref.rollout.enable_prefix_caching=False, or keep "
            "free_cache_engine=True so that the cache goes with every update."
        ),
        "TRL": (
            "TRL resets the prefix cache after each sync. A custom server must do so, or run trl "
            "vllm-serve with --enable_prefix_caching False."
        ),
        "NeMo-RL": (
            "Set grpo.async_grpo.recompute_kv_cache_after_weight_updates=true when "
            "in_flight_weight_updates is on, or "
            "policy.generation.vllm_kwargs.enable_prefix_caching=false."
        ),
        "slime": "Leave --flush-cache-interval at 1, or set --sglang-disable-radix-cache.",
        "FSDP": (
            "Call llm.reset_prefix_cache() after each update of vLLM's weights; for SGLang, "
            "flush_cache."
        ),
    },
    sources=(
        "https://github.com/PrimeIntellect-ai/prime-rl/pull/1650",
        "https://github.com/NVIDIA-NeMo/RL/pull/4018",
        "https://github.com/vllm-project/vllm-omni/issues/6739",
        "https://github.com/InternLM/lmdeploy/issues/4917",
    ),
    fault="stale-prefix-cache",
    neighbours=(
        "stale-graph",
        "kv-cache-quantisation",
        "stale-weights",
        "stale-tensor",
    ),
)
