"""Dropout is on when the trainer computes log-probs."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="dropout-active",
    family="trainer",
    title="Dropout is on when the trainer computes log-probs",
    mechanism=(
        "The model is in train mode with dropout above zero, in attention, hidden states or LoRA, "
        "while log-probs are computed. Every pass then uses another random network."
    ),
    signature=(
        "The trainer disagrees with itself in two identical passes, by about the square root of 2 "
        "times what it disagrees with the engine. Mean near zero, all tokens, all positions. The "
        "engine agrees with the reference."
    ),
    confirmation=(
        "train_train repeated on the same batch is not zero; in eval mode it is. Then the edge to "
        "the engine falls to the floor too."
    ),
    remedy_id="no-dropout",
    remedy="Set every dropout probability to 0, LoRA's included, or compute in eval mode.",
    remedies={
        "verl": (
            "Set attention_dropout and its kin to 0 through "
            "+actor_rollout_ref.model.override_config; for Megatron in "
            "override_transformer_config."
        ),
        "TRL": "Set disable_dropout=True, and lora_dropout=0 in the LoraConfig.",
        "NeMo-RL": (
            "Set the dropouts of the model's config to 0 with policy.hf_config_overrides, and the "
            "dropout of the LoRA settings to 0."
        ),
        "slime": "Set --attention-dropout 0 --hidden-dropout 0: Megatron's defaults are not zero.",
        "FSDP": (
            "for module in model.modules(): if isinstance(module, nn.Dropout): module.p = 0. Set "
            "config.attention_dropout = 0 before loading."
        ),
    },
    sources=(
        "https://github.com/Human-Agent-Society/reef/pull/536",
        "https://github.com/huggingface/trl/issues/2042",
        "https://github.com/awslabs/keys_values/pull/43",
    ),
    fault="dropout-active",
    neighbours=(
        "batch-variance",
        "routing-two-pass",
    ),
)
