"""The trainer's two passes choose different experts."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="routing-two-pass",
    family="moe",
    title="The trainer's two passes choose different experts",
    mechanism=(
        "Log-probs are computed once without gradients and once more with them, or again under "
        "activation checkpointing, with other batch shapes or kernels. Near-ties of the router "
        "fall differently, so the ratio is not 1 although the weights are the same."
    ),
    signature=(
        "The engine is irrelevant: the trainer disagrees with itself. The same pass repeated is "
        "identical, another micro-batch or mode is not. The difference sits on tokens whose "
        "experts flipped. At learning rate 0 tokens are clipped all the same."
    ),
    confirmation=(
        "train_train with the same micro-batch is zero and with another is not; experts of both "
        "passes differ at exactly the tokens that differ."
    ),
    remedy_id="on-policy-ratio",
    remedy=(
        "Use one pass: where there is one update per batch, take the current log-probs, detached, "
        "as the old ones. Otherwise equal micro-batches in both passes, or replay the routing."
    ),
    remedies={
        "verl": (
            "Give both passes the same shapes (log_prob_micro_batch_size_per_gpu equal to "
            "ppo_micro_batch_size_per_gpu, no dynamic batch size), or set "
            "actor_rollout_ref.actor.router_replay.mode=R2."
        ),
        "TRL": (
            "TRL uses one pass with num_iterations=1, steps_per_generation equal to "
            "gradient_accumulation_steps and vllm_importance_sampling_correction=False; the "
            "correction needs the second pass."
        ),
        "NeMo-RL": (
            "Set loss_fn.force_on_policy_ratio=true (needs one update per rollout), and "
            "policy.logprob_batch_size equal to policy.train_micro_batch_size."
        ),
        "slime": "Set --use-routing-replay.",
        "FSDP": (
            "old_logp = logp.detach() in the first update of a batch. Otherwise record the chosen "
            "experts and use them again."
        ),
    },
    sources=(
        "https://huggingface.co/blog/LinkedIn/gpt-oss-agentic-rl",
        "https://github.com/huggingface/transformers/issues/47467",
        "https://github.com/linkedin/Liger-Kernel/issues/1255",
        "https://github.com/ISEEKYAN/Megatron-LM/pull/79",
    ),
    fault="two-pass-training",
    neighbours=(
        "batch-variance",
        "dropout-active",
        "router-precision",
        "routing-flips",
    ),
)
