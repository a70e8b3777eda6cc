"""The engine's KV cache is quantised."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="kv-cache-quantisation",
    family="cache",
    title="The engine's KV cache is quantised",
    mechanism=(
        "Keys and values are stored in 8 bits or fewer. Decode reads rounded values back; prefill "
        "mostly attends to fresh ones, and the trainer to exact ones. Missing or frozen scales "
        "make it worse."
    ),
    signature=(
        "decode_prefill leaves the floor and prefill_train does not. It is there at the first "
        "step, needs no weight update, and hits every sequence once there is a cache to read. It "
        "does not grow much with position."
    ),
    confirmation=(
        "Sample again with --engine-arg kv_cache_dtype=auto: the difference falls to the floor. "
        "Offline, a reference that rounds its keys and values explains the decode pass."
    ),
    remedy_id="plain-kv-cache",
    remedy=(
        "Keep the KV cache in the model's dtype. If memory forbids it, calibrate its scales after "
        "every weight update and correct with importance weights."
    ),
    remedies={
        "verl": "Leave actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_dtype at auto.",
        "TRL": "Leave --kv_cache_dtype of trl vllm-serve at auto.",
        "NeMo-RL": (
            "Set policy.generation.vllm_cfg.kv_cache_dtype to auto. With fp8, scales must be "
            "recalibrated after each refit (issue 3225)."
        ),
        "slime": "Leave --sglang-kv-cache-dtype at auto.",
        "FSDP": "Start vLLM or SGLang with --kv-cache-dtype auto.",
    },
    sources=(
        "https://github.com/sgl-project/sglang/issues/25790",
        "https://github.com/NVIDIA-NeMo/RL/issues/3225",
        "https://github.com/PrimeIntellect-ai/prime-rl/pull/3555",
        "https://github.com/verl-project/verl/pull/4435",
    ),
    fault="kv-cache-fp8",
    neighbours=(
        "stale-prefix-cache",
        "stale-graph",
        "decode-prefill-divergence",
        "weight-quantisation",
    ),
)
