"""The router's bias is missing, stale or rounded on one side."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="router-bias",
    family="moe",
    title="The router's bias is missing, stale or rounded on one side",
    mechanism=(
        "Some routers add a bias per expert before the top-k (e_score_correction_bias for "
        "balancing, a plain bias in GPT-OSS). It is a buffer or a small tensor that updates "
        "forget, cast to bfloat16, or mask wrongly."
    ),
    signature=(
        "Router inputs agree, and logits before the bias too, but the chosen experts differ in one "
        "direction: the same experts are picked too often, others too rarely. With a bias that "
        "only selects, the weights of commonly chosen experts are right."
    ),
    confirmation=(
        "Compare the fingerprint of the bias on both sides. Offline, the reference without the "
        "bias, or with the old one, picks the suspect's experts. A directed shift of expert counts "
        "separates it from random flips."
    ),
    remedy_id="sync-router-bias",
    remedy="Send the bias with every weight update, in float32, or freeze it during RL.",
    remedies={
        "verl": (
            "For Megatron set moe_router_bias_update_rate=0 in override_transformer_config, and "
            "check that the bias is among the tensors sent."
        ),
        "TRL": "Check that buffers are sent too: only parameters are pushed to vLLM.",
        "NeMo-RL": (
            "Leave policy.megatron_cfg.moe_router_bias_update_rate=0.0, and use a version with the "
            "fix of pull request 3540."
        ),
        "slime": "Set --moe-router-bias-update-rate 0, and check with --check-weight-update-equal.",
        "FSDP": "Push named_buffers() as well as named_parameters(), without casting the bias.",
    },
    sources=(
        "https://github.com/NVIDIA-NeMo/RL/pull/3540",
        "https://github.com/huggingface/transformers/issues/45440",
        "https://github.com/flagos-ai/FlagScale/pull/412",
        "https://github.com/PrimeIntellect-ai/prime-rl/pull/2953",
    ),
    fault="selection-bias",
    neighbours=(
        "router-precision",
        "routing-flips",
        "expert-bias",
        "stale-tensor",
    ),
)
