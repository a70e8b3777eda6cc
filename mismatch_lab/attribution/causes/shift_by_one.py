"""Log-probs are paired with the neighbouring token."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="shift-by-one",
    family="tokens",
    title="Log-probs are paired with the neighbouring token",
    mechanism=(
        "Position t of the logits predicts token t + 1. One missing or doubled shift, in the "
        "gather, the loss mask or the slice that cuts the prompt off, pairs every log-prob with "
        "the wrong token."
    ),
    signature=(
        "Differences are huge and the correlation of the two sides is near zero, but near one as "
        "soon as one side is moved by one position. Hidden states agree."
    ),
    confirmation=(
        "Offline: move one side's log-probs by one position, and the difference falls to the "
        "floor. No forward pass is needed."
    ),
    remedy_id="align-tokens",
    remedy=(
        "Gather log_softmax(logits[:, :-1]) at tokens[:, 1:], and cut prompt and mask with the "
        "same index. Assert equal token ids before comparing log-probs."
    ),
    remedies={
        "verl": (
            "Check custom agent loops and log-prob code: responses, response_mask and "
            "rollout_log_probs must have one entry per response token."
        ),
        "TRL": (
            "Check a custom rollout function: it must return one log-prob per completion token, in "
            "order."
        ),
        "NeMo-RL": (
            "Check custom environments and loss masks: generation_logprobs and token_mask belong "
            "to the same positions as the token ids."
        ),
        "slime": (
            "In a custom generate function keep rollout_log_probs, loss_mask and the response "
            "tokens at the same length."
        ),
        "FSDP": "logits[:, :-1] with input_ids[:, 1:]; the mask moves with the targets.",
    },
    sources=(
        "https://github.com/modelscope/ms-swift/pull/8427",
        "https://github.com/areal-project/AReaL/issues/1728",
        "https://github.com/AI-Hypercomputer/maxtext/issues/2103",
    ),
    fault="shift-train",
    neighbours=(
        "packing-boundary",
        "terminal-token",
        "retokenisation",
    ),
)
