"""Padded vocabulary rows count in the softmax."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="vocab-padding",
    family="semantics",
    title="Padded vocabulary rows count in the softmax",
    mechanism=(
        "The head is padded to a multiple of a block size. If the extra rows are not masked, each "
        "adds exp(0) = 1 (or its capped value) to the denominator of the softmax. It happens in "
        "fused cross-entropy kernels whose last tile is not masked, and in engines that pad the "
        "vocabulary."
    ),
    signature=(
        "One-sided: the wrong side is less likely everywhere, by log(1 + n_pad * exp(-logsumexp)). "
        "Nothing where logsumexp is large, much where the logits are small or negative, so it can "
        "grow during training. No token has probability zero. Hidden states agree."
    ),
    confirmation=(
        "Offline, the reference with that many zero logits in its logsumexp gives the wrong side's "
        "values. In the framework, switch the fused kernel off."
    ),
    remedy_id="mask-vocab-padding",
    remedy=(
        "Put minus infinity on the padded rows, or use the unfused log-softmax over the true "
        "vocabulary."
    ),
    remedies={
        "verl": (
            "Set actor_rollout_ref.model.use_fused_kernels=False, or use a version with the fix of "
            "pull request 5349."
        ),
        "TRL": "Set use_liger_kernel=False.",
        "NeMo-RL": (
            "Use a version that masks the padded vocabulary of a Megatron policy. There is no "
            "setting for it; test with a DTensor policy (policy.dtensor_cfg.enabled=true), which "
            "uses the checkpoint's own head."
        ),
        "slime": (
            "Choose --make-vocab-size-divisible-by so that the vocabulary needs no padding at your "
            "tensor-parallel size."
        ),
        "FSDP": (
            "Slice logits to the tokenizer's true vocabulary before log_softmax, or use "
            "log_softmax from torch instead of the fused kernel."
        ),
    },
    sources=(
        "https://github.com/verl-project/verl/pull/5349",
        "https://github.com/unslothai/unsloth/pull/10616",
    ),
    fault="phantom-vocab",
    neighbours=(
        "sampler-truncation",
        "logit-scale",
    ),
)
