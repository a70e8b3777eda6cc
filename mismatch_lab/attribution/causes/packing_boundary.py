"""Only the last token of each packed sequence is wrong."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="packing-boundary",
    family="tokens",
    title="Only the last token of each packed sequence is wrong",
    mechanism=(
        "Targets are made by rolling the whole packed row by one. At a border, the last position "
        "of one sequence then gets the first token of the next as its target, and the log-prob of "
        "the true last token is another one's."
    ),
    signature=(
        "All tokens are exact but the last of each packed sequence. The last sequence of a pack "
        "may be right or wrap around."
    ),
    confirmation=(
        "Score with one sequence per forward: the last tokens become right. A look at the position "
        "within the sequence is enough to tell it from the other packing causes."
    ),
    remedy_id="roll-per-sequence",
    remedy="Build the targets per sequence, before packing, or roll inside the borders.",
    remedies={
        "verl": (
            "Use a version with the fix of issue 6475. Test with "
            "actor_rollout_ref.model.use_remove_padding=False."
        ),
        "TRL": (
            "GRPO does not pack. Check a custom loss that rolls labels over a concatenated batch."
        ),
        "NeMo-RL": "Test with policy.sequence_packing.enabled=false.",
        "slime": (
            "Test without --use-dynamic-batch-size; check custom loss functions that roll the "
            "packed tokens."
        ),
        "FSDP": (
            "Make labels per sequence, then concatenate. Do not call torch.roll on the packed row."
        ),
    },
    sources=("https://github.com/verl-project/verl/issues/6475",),
    fault="packing-boundary",
    neighbours=(
        "terminal-token",
        "packing-leak",
        "shift-by-one",
    ),
)
