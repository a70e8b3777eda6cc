"""Results depend on what else is in the batch."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="batch-variance",
    family="trainer",
    title="Results depend on what else is in the batch",
    mechanism=(
        "Kernels split their sums by batch shape (split-K, block sizes, fused reductions), so the "
        "same sequence rounds differently next to other sequences. In an MoE this flips experts "
        "too."
    ),
    signature=(
        "The same batch repeated is bit-identical. Another micro-batch size, or other neighbours, "
        "is not. The size is that of rounding for dense models and heavy-tailed for MoE. Float32 "
        "makes it far smaller."
    ),
    confirmation=(
        "train_train with another micro-batch size is not zero, and repeated it is. Equal shapes "
        "in all passes make it vanish."
    ),
    remedy_id="batch-invariant",
    remedy=(
        "Use equal micro-batches in all passes, or batch-invariant kernels. It is rounding: "
        "importance weights cover the rest."
    ),
    remedies={
        "verl": (
            "Set actor_rollout_ref.actor.use_dynamic_bsz=False with equal "
            "ppo_micro_batch_size_per_gpu and log_prob_micro_batch_size_per_gpu. Engine: "
            "VLLM_BATCH_INVARIANT=1."
        ),
        "TRL": (
            "Keep per_device_train_batch_size fixed, num_iterations=1, and start vLLM with "
            "VLLM_BATCH_INVARIANT=1 on a GPU that has it."
        ),
        "NeMo-RL": (
            "Set policy.logprob_batch_size equal to policy.train_micro_batch_size, and "
            "dynamic_batching and sequence_packing off to test."
        ),
        "slime": (
            "Set --true-on-policy-mode, --deterministic-mode and "
            "--sglang-enable-deterministic-inference where the model is supported."
        ),
        "FSDP": (
            "Pad to fixed shapes, one sequence per forward to test; batch_invariant_ops replaces "
            "the kernels."
        ),
    },
    sources=(
        "https://github.com/huggingface/trl/issues/6789",
        "https://github.com/verl-project/verl/issues/6280",
        "https://github.com/NVIDIA-NeMo/RL/pull/1767",
        "https://github.com/RLinf/RLinf/pull/1534",
    ),
    fault="batch-variance",
    neighbours=(
        "routing-two-pass",
        "dropout-active",
        "numerics-floor",
        "packing-leak",
    ),
)
