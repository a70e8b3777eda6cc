"""The trainer scores other tokens than the engine sampled."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="retokenisation",
    family="tokens",
    title="The trainer scores other tokens than the engine sampled",
    mechanism=(
        "The sampled ids are decoded to text and encoded again, most often between turns, around "
        "tool calls, or by a second chat template. Text does not determine the ids: the model may "
        "have sampled another split, and a BOS may be doubled."
    ),
    signature=(
        "Token ids differ. Log-probs are healthy up to the first differing token, burst there, and "
        "stay disturbed after it. Multi-turn samples are hit, single-turn ones hardly."
    ),
    confirmation=(
        "Compare the ids that the engine returned with those that the trainer scored; a single "
        "difference is proof. Score the engine's ids as they are: the difference falls to the "
        "floor. mismatch-lab does both."
    ),
    remedy_id="token-in-token-out",
    remedy=(
        "Keep ids, not text, from the engine to the loss. Append the next turn's tokens to the ids "
        "you have."
    ),
    remedies={
        "verl": (
            "Keep actor_rollout_ref.rollout.skip_tokenizer_init=True and "
            "actor_rollout_ref.rollout.multi_turn.tokenization_sanity_check_mode=strict, and "
            "use_inference_chat_template=False."
        ),
        "TRL": (
            "Use the trainer's own tool loop, or a rollout function that returns prompt_ids, "
            "completion_ids and logprobs from the engine."
        ),
        "NeMo-RL": (
            "Return token ids from your environment's turns instead of text that is tokenised "
            "again."
        ),
        "slime": (
            "In a custom generate function, append to sample.tokens the ids that the engine "
            "returned, and never encode its text."
        ),
        "FSDP": (
            "Ask the engine for token ids (vLLM: prompt_token_ids in, token_ids out) and train on "
            "those."
        ),
    },
    sources=(
        "https://github.com/huggingface/trl/issues/5224",
        "https://github.com/modelscope/ms-swift/pull/10012",
        "https://github.com/verl-project/verl/issues/3960",
        "https://github.com/huggingface/trl/issues/3853",
    ),
    fault="retokenisation",
    neighbours=(
        "prompt-template",
        "shift-by-one",
        "stale-prefix-cache",
    ),
)
