"""Only numerics: what this precision does to this model."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="numerics-floor",
    family="precision",
    title="Only numerics: what this precision does to this model",
    mechanism=(
        "Both sides compute the same function with kernels that round at different places: "
        "attention backend, order of summation, fused or split matrix products, tensor "
        "parallelism. The errors are independent and add in quadrature."
    ),
    signature=(
        "Each side is as far from the float32 reference as the reference in the same dtype is. "
        "Differences have mean zero, grow a little with depth, and are larger on uncertain tokens. "
        "No module, position, token or expert stands out. Both sides in float32: gone."
    ),
    confirmation=(
        "Run both sides with --dtype float32: the difference falls by orders of magnitude. float16 "
        "on both sides, with its longer mantissa, leaves much less than bfloat16."
    ),
    remedy_id="higher-precision",
    remedy=(
        "It is no bug, and nothing has to be fixed. If training is still unstable, go for less "
        "rounding (float32 head, float16) or correct with importance weights."
    ),
    remedies={
        "verl": (
            "Correct: turn actor_rollout_ref.rollout.calculate_log_probs on and set "
            "algorithm.rollout_correction. Less rounding: float16 for rollout "
            "(actor_rollout_ref.rollout.dtype) and actor "
            "(actor_rollout_ref.actor.fsdp_config.dtype)."
        ),
        "TRL": (
            "vllm_importance_sampling_correction is on by default. Less rounding: fp16=True "
            "instead of bf16, with vLLM in float16."
        ),
        "NeMo-RL": (
            "Set loss_fn.use_importance_sampling_correction=true. Less rounding: policy.precision "
            "and policy.generation.vllm_cfg.precision set to float16."
        ),
        "slime": (
            "Use --use-tis. For zero difference: --true-on-policy-mode with "
            "--sglang-enable-deterministic-inference, where the model is supported."
        ),
        "FSDP": (
            "Weight tokens by the truncated ratio of trainer and engine, or use float16 with loss "
            "scaling, or float32 logits."
        ),
    },
    sources=(
        "https://github.com/AknA13/train-infer-mismatch",
        "https://github.com/verl-project/verl/issues/6280",
        "https://github.com/huggingface/trl/issues/6789",
    ),
    fault=None,
    neighbours=(
        "unlisted",
        "norm-precision",
        "lm-head-precision",
        "batch-variance",
        "routing-flips",
    ),
)
