"""The engine's log-probs are renormalised over top-p, top-k or min-p."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="sampler-truncation",
    family="semantics",
    title="The engine's log-probs are renormalised over top-p, top-k or min-p",
    mechanism=(
        "The engine cuts the vocabulary with top-p, top-k or min-p and returns log-probs "
        "normalised over the tokens that are left. The trainer normalises over the whole "
        "vocabulary."
    ),
    signature=(
        "Delta is never positive: it is the log of the kept probability mass at each position, and "
        "exactly zero where nothing was cut. The engine's distribution has tokens of probability "
        "zero. The mean ratio equals the mean kept mass. Logits and hidden states agree. With raw "
        "log-probs delta is at the floor, and only the tokens show it: none was drawn from outside "
        "of the set that is kept, as often as it should have been."
    ),
    confirmation=(
        "Sample again with --top-p 1 and no top-k or min-p: the difference falls to the floor. "
        "Offline, the reference's distribution cut and renormalised in the same way gives the "
        "engine's values exactly."
    ),
    remedy_id="full-support",
    remedy=(
        "Sample from the whole vocabulary. If you must cut, record which tokens were kept and "
        "normalise the trainer over the same ones."
    ),
    remedies={
        "verl": "Set actor_rollout_ref.rollout.top_p=1 and actor_rollout_ref.rollout.top_k=-1.",
        "TRL": (
            "Set top_p=1.0, top_k=0 and min_p=None in GRPOConfig, and no such keys in "
            "generation_kwargs."
        ),
        "NeMo-RL": "Set policy.generation.top_p=1.0 and policy.generation.top_k=null.",
        "slime": "Set --rollout-top-p 1 and --rollout-top-k -1.",
        "FSDP": (
            "Request top_p=1, top_k=-1 and min_p=0. To keep truncation, ask vLLM (0.28 or later) "
            "for return_sampling_mask and put minus infinity on the same tokens before "
            "log_softmax."
        ),
    },
    sources=(
        "https://github.com/huggingface/trl/issues/6789",
        "https://github.com/huggingface/trl/pull/7269",
        "https://github.com/vllm-project/vllm/pull/49577",
        "https://github.com/verl-project/verl/issues/6240",
    ),
    fault="top-p",
    neighbours=(
        "vocab-padding",
        "sampling-penalties",
        "raw-logprobs-temperature",
    ),
)
