"""The end-of-sequence token has no real log-prob on one side."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="terminal-token",
    family="tokens",
    title="The end-of-sequence token has no real log-prob on one side",
    mechanism=(
        "A framework appends an end token that was never sampled and gives it log-prob 0, or masks "
        "the real one because padding shares its id, or trims a stop word without its log-prob."
    ),
    signature=(
        "Only the last token of a sequence differs, and one side says exactly the same constant "
        "there, usually 0. Truncated sequences are healthy. The ratio of the whole sequence is the "
        "probability of the end token."
    ),
    confirmation=(
        "Offline: leave the last token of each finished sequence out, and the difference falls to "
        "the floor. Sequences cut by max_tokens must not show it."
    ),
    remedy_id="terminal-token",
    remedy=(
        "Keep the end token only if the engine sampled it, with the log-prob it returned, and give "
        "padding an id of its own."
    ),
    remedies={
        "verl": (
            "Set the tokenizer's pad token apart from its end token. In agent loops do not append "
            "an end token yourself."
        ),
        "TRL": (
            "Use a tokenizer whose pad_token is not its eos_token, and a version with the fix of "
            "pull request 6357."
        ),
        "NeMo-RL": (
            "Set policy.generation.stop_token_ids to all end tokens of the model, and check the "
            "masks of your environment."
        ),
        "slime": (
            "Set --rollout-stop-token-ids to all end tokens, and keep their log-probs in custom "
            "generate functions."
        ),
        "FSDP": "Mask by length, not by tokens equal to pad_token_id.",
    },
    sources=(
        "https://github.com/NovaSky-AI/SkyRL/pull/2148",
        "https://github.com/pytorch/rl/pull/3578",
        "https://github.com/huggingface/trl/pull/6357",
        "https://github.com/huggingface/trl/pull/7039",
    ),
    fault="synthetic-eos",
    neighbours=(
        "packing-boundary",
        "sentinel-values",
        "shift-by-one",
    ),
)
