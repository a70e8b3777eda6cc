"""Sampled tokens have no log-prob on one side."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="missing-logprobs",
    family="tokens",
    title="Sampled tokens have no log-prob on one side",
    mechanism=(
        "The record of a token is lost on the way (a server that returns none, an answer that was "
        "interrupted and resumed, rows joined at the wrong place), or a kernel computes NaN, and "
        "then the whole distribution is NaN."
    ),
    signature=(
        "Some sampled tokens are NaN on one side and have an ordinary log-prob on the other; the "
        "rest is at the floor. A lost record leaves the distribution and the tokens behind it "
        "alone; a NaN in a cache or a hidden state stays up to the end of its row."
    ),
    confirmation=(
        "Score the same tokens again with the same side: a lost record is there, a kernel's NaN "
        "comes back. Offline, these tokens left out, the difference is at the floor."
    ),
    remedy_id="fail-on-nan",
    remedy=(
        "Fail on NaN among log-probs of unmasked tokens where they are received. If whole "
        "distributions are NaN, the step's samples come from a broken engine: drop them."
    ),
    remedies={
        "verl": "Check torch.isnan(rollout_log_probs) under response_mask in the agent loop.",
        "TRL": "Use a version with pull request 6693, and do not replace NaN by the trainer's own.",
        "NeMo-RL": (
            "Do not replace what is not finite by 0.0, as pull request 2962 does: drop the sample."
        ),
        "slime": "In custom generate functions, give tokens without a log-prob a loss_mask of 0.",
        "FSDP": (
            "Run the batch with torch.autograd.detect_anomaly, or hook modules, to find the first "
            "that gives NaN."
        ),
    },
    sources=(
        "https://github.com/huggingface/trl/issues/6166",
        "https://github.com/huggingface/trl/pull/6693",
        "https://github.com/NVIDIA-NeMo/RL/pull/2962",
        "https://github.com/NVIDIA-NeMo/Gym/pull/1612",
    ),
    fault="nan-tokens",
    neighbours=(
        "sentinel-values",
        "impossible-token",
    ),
)
