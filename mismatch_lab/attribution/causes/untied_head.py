"""Embedding and head are tied on one side only."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="untied-head",
    family="weights",
    title="Embedding and head are tied on one side only",
    mechanism=(
        "The config ties lm_head to the embedding, but one side keeps two tensors: only one of "
        "them is trained, sent or loaded. Or the tie is missing where it should be, and the head "
        "is random or old."
    ),
    signature=(
        "Hidden states agree. Logits differ by token id, in the direction of what the head missed. "
        "Nothing at step 0 if both started equal; grows with training."
    ),
    confirmation=(
        "Compare fingerprints of lm_head.weight and embed_tokens.weight on both sides. Offline, "
        "the reference with the old head reproduces the wrong side."
    ),
    remedy_id="tie-head",
    remedy=(
        "Make tie_word_embeddings agree with the checkpoint on both sides, and send the head "
        "explicitly."
    ),
    remedies={
        "verl": (
            "Set tie_word_embeddings through +actor_rollout_ref.model.override_config if the actor "
            "disagrees with the checkpoint, and check that lm_head is pushed."
        ),
        "TRL": (
            "Check model.config.tie_word_embeddings. cast_lm_head_to_fp32 needs an untied head, "
            "and is no reason to untie one."
        ),
        "NeMo-RL": "Check the converted model's tie; run tools/refit_verifier.py.",
        "slime": (
            "Give Megatron --untie-embeddings-and-output-weights exactly if the checkpoint is "
            "untied."
        ),
        "FSDP": (
            "Call model.tie_weights() after loading and before fully_shard; wrap the two so that "
            "they stay one parameter."
        ),
    },
    sources=(
        "https://github.com/vllm-project/vllm/pull/51665",
        "https://github.com/PrimeIntellect-ai/prime-rl/pull/2823",
        "https://github.com/huggingface/transformers/pull/43429",
    ),
    fault="untied-head",
    neighbours=(
        "stale-tensor",
        "lm-head-precision",
    ),
)
