"""The normaliser of the log-softmax misses a part of the vocabulary."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="partial-normaliser",
    family="semantics",
    title="The normaliser of the log-softmax misses a part of the vocabulary",
    mechanism=(
        "With tensor parallelism the head is sharded over the vocabulary, and each rank has the "
        "sum of exponentials of its own tokens. If the sums are not added over all ranks, the "
        "log-sum-exp is too small and probabilities no longer add up to one."
    ),
    signature=(
        "One-sided: the wrong side is likelier at every token, by minus the log of the "
        "probability mass that is counted. Where most of the mass is missing, log-probs are above "
        "0. Hidden states and logits agree, and so does the likeliest token."
    ),
    confirmation=(
        "Offline, the reference's log-sum-exp without one shard of 2, 4 or 8 gives the wrong "
        "side's values at every token. In the framework, run with a tensor-parallel size of 1."
    ),
    remedy_id="reduce-normaliser",
    remedy=(
        "Add the sums of exponentials over all tensor-parallel ranks (and take the maximum over "
        "all ranks first), or gather the logits before the log-softmax. Check that "
        "log-probs are at most 0."
    ),
    remedies={
        "verl": (
            "Test with actor_rollout_ref.actor.megatron.tensor_model_parallel_size=1; log-probs "
            "come from vocab_parallel_log_probs_from_logits, which needs the tensor-parallel group."
        ),
        "TRL": "TRL has no tensor-parallel loss: look at a custom loss or a fused kernel.",
        "NeMo-RL": "Test with policy.megatron_cfg.tensor_model_parallel_size=1.",
        "slime": "Test with --tensor-model-parallel-size 1.",
        "FSDP": (
            "Inside loss_parallel keep logits a DTensor up to log_softmax, or call full_tensor() "
            "on them; a to_local() before the log_softmax leaves one shard."
        ),
    },
    sources=(
        "https://github.com/tenstorrent/tt-metal/issues/47902",
        "https://github.com/NovaSky-AI/SkyRL/pull/1832",
        "https://github.com/modelscope/ms-swift/pull/9947",
    ),
    fault="lost-shard",
    neighbours=(
        "logit-scale",
        "sampler-truncation",
        "vocab-padding",
    ),
)
