"""One side gives probability zero to tokens that were sampled."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="impossible-token",
    family="semantics",
    title="One side gives probability zero to tokens that were sampled",
    mechanism=(
        "A mask puts minus infinity on entries of the vocabulary that the sampler can draw: "
        "padding rows counted from a smaller tokenizer, special tokens, a list of allowed "
        "tokens, or top-k and top-p applied once more in scoring, where rounding lets a token "
        "fall just outside of what the sampler kept."
    ),
    signature=(
        "Some sampled tokens have a log-prob of minus infinity on one side and an ordinary one on "
        "the other. The other tokens are at the floor, or likelier by what the mask takes away. "
        "The side's distributions have entries of probability zero."
    ),
    confirmation=(
        "Offline, the reference with the same entries masked gives the wrong side's values at all "
        "other tokens, and the tokens left out, the difference is at the floor."
    ),
    remedy_id="same-support",
    remedy=(
        "Normalise both sides over the same entries: drop the mask, or draw with it too. Where the "
        "sampler truncates, record what it kept, keep the sampled token in any case, and mask "
        "the loss at tokens that stay impossible."
    ),
    remedies={
        "verl": "Set actor_rollout_ref.rollout.top_p=1 and top_k=-1, and score all of the logits.",
        "TRL": "Set top_p=1.0, top_k=0 and min_p=None in GRPOConfig.",
        "NeMo-RL": (
            "Set policy.generation.top_p=1.0 and policy.generation.top_k=null, or take filtered "
            "tokens out of token_mask as pull request 4154 does."
        ),
        "slime": (
            "Set --rollout-top-p 1 and --rollout-top-k -1, and check --vocab-size against the "
            "tokenizer's largest id."
        ),
        "FSDP": (
            "Compare the width of the mask with config.vocab_size and the largest sampled id, and "
            "check torch.isfinite of log-probs before the loss."
        ),
    },
    sources=(
        "https://github.com/NVIDIA-NeMo/RL/pull/4154",
        "https://github.com/PrimeIntellect-ai/prime-rl/pull/2601",
        "https://github.com/NVIDIA-NeMo/RL/pull/2962",
    ),
    fault="masked-vocabulary",
    neighbours=(
        "sampler-truncation",
        "missing-logprobs",
    ),
)
