"""The engine's decode disagrees with its own prefill."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="decode-prefill-divergence",
    family="attention",
    title="The engine's decode disagrees with its own prefill",
    mechanism=(
        "Decode and prefill are different kernels, sometimes different algorithms (recurrent "
        "against chunked scan, split-K attention, cascade attention). A defect in one shows only "
        "there. Use this name when no narrower cause of a decode error fits."
    ),
    signature=(
        "decode_prefill leaves the floor while prefill_train stays at it: the trainer is right. "
        "Present from the first step, without a weight update, with a plain KV cache. Often a part "
        "of the sequences is far off and the rest is healthy."
    ),
    confirmation=(
        "Score the same ids with the engine's prefill; then change one engine setting at a time: "
        "attention backend, enforce_eager, enable_chunked_prefill, disable_cascade_attn."
    ),
    remedy_id="engine-backend",
    remedy=(
        "Change or upgrade the kernel that decodes. Until then train on log-probs from the "
        "engine's prefill or from the trainer, knowing that the samples come from the wrong "
        "policy."
    ),
    remedies={
        "verl": (
            "Try actor_rollout_ref.rollout.enforce_eager=True, enable_chunked_prefill=False, and "
            "engine_kwargs.vllm for attention backend and disable_cascade_attn."
        ),
        "TRL": "Start trl vllm-serve with --enforce_eager True to test, and upgrade vLLM.",
        "NeMo-RL": (
            "Try policy.generation.vllm_cfg.enforce_eager=true and "
            "policy.generation.vllm_kwargs.disable_cascade_attn=true."
        ),
        "slime": "Try --sglang-disable-cuda-graph and another --sglang-attention-backend.",
        "FSDP": "The trainer is right: change the engine's attention backend or version.",
    },
    sources=(
        "https://github.com/NVIDIA-NeMo/RL/pull/2141",
        "https://github.com/NVIDIA-NeMo/RL/issues/2100",
        "https://github.com/vllm-project/vllm/pull/36318",
        "https://github.com/allenai/open-instruct/pull/1006",
    ),
    fault="decode-window",
    neighbours=(
        "kv-cache-quantisation",
        "stale-graph",
        "stale-prefix-cache",
        "sliding-window",
    ),
)
