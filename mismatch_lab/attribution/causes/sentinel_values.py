"""Placeholder numbers stand where log-probs should."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="sentinel-values",
    family="tokens",
    title="Placeholder numbers stand where log-probs should",
    mechanism=(
        "Missing, infinite or not-a-number log-probs are replaced on the way: with 0.0 "
        "(probability one), -9999 (the clamp of OpenAI-style servers) or 1.0, or ratios are "
        "clamped. The placeholders then enter ratios and means."
    ),
    signature=(
        "One and the same exact number recurs among one side's log-probs, at tokens that have "
        "nothing in common. Without those tokens the difference is at the floor. A true NaN means "
        "that the whole row of logits was NaN: a broken engine, not a bad token."
    ),
    confirmation=(
        "Offline: leave out the tokens with the repeated constant, and the difference falls to the "
        "floor. Ask the engine for the same tokens again without the framework in between."
    ),
    remedy_id="no-sentinels",
    remedy=(
        "Carry missing values as NaN with a mask, and fail on NaN. Ask the engine for log-probs of "
        "the sampled token, not of the top few."
    ),
    remedies={
        "verl": "Check custom agent loops: pad rollout_log_probs only where response_mask is 0.",
        "TRL": "Use a version with the fix of pull request 6693 and let NaN stop the run.",
        "NeMo-RL": (
            "Use a version with the fix of pull request 2962, and check custom generation code for "
            "zero padding."
        ),
        "slime": (
            "In custom generate functions, give tool and padding tokens a loss_mask of 0, whatever "
            "their log-prob."
        ),
        "FSDP": (
            "Mask by position, and check torch.isfinite on the engine's log-probs of all unmasked "
            "tokens."
        ),
    },
    sources=(
        "https://github.com/NVIDIA-NeMo/RL/pull/2962",
        "https://github.com/huggingface/trl/pull/6693",
        "https://github.com/vllm-project/vime/pull/70",
        "https://github.com/allenai/open-instruct/pull/1817",
    ),
    fault="sentinel-zero",
    neighbours=(
        "terminal-token",
        "logprob-precision",
    ),
)
