"""Weights of the chosen experts are normalised differently."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="router-renormalisation",
    family="moe",
    title="Weights of the chosen experts are normalised differently",
    mechanism=(
        "After the top-k, the chosen weights are divided by their sum, or not (norm_topk_prob), "
        "and multiplied with a factor, or not (routed_scaling_factor). Softmax before or after the "
        "top-k is the same question. A side that does otherwise scales the MoE output of every "
        "token."
    ),
    signature=(
        "The first MoE layer picks the same experts, but their weights differ by one factor per "
        "token, and so does the layer's output: same direction, other length. No expert is "
        "favoured. Dense models cannot have it."
    ),
    confirmation=(
        "Offline, the reference with norm_topk_prob inverted, or another scaling factor, "
        "reproduces the wrong side. At depth deep the first MoE module diverges with a cosine of "
        "one."
    ),
    remedy_id="router-config",
    remedy="Give both sides the checkpoint's norm_topk_prob, scoring function and scaling factor.",
    remedies={
        "verl": (
            "The FSDP actor reads the checkpoint's config; for Megatron check "
            "moe_router_pre_softmax and moe_router_topk_scaling_factor in "
            "override_transformer_config."
        ),
        "TRL": "Both sides read the checkpoint's config.json: correct norm_topk_prob there.",
        "NeMo-RL": (
            "Check the converted Megatron or Automodel config; transformers' code is used with "
            "automodel_kwargs.force_hf=true."
        ),
        "slime": (
            "Check --moe-router-pre-softmax, --moe-router-score-function and "
            "--moe-router-topk-scaling-factor against the checkpoint's config."
        ),
        "FSDP": (
            "Compare config.norm_topk_prob and config.routed_scaling_factor with what the engine "
            "prints at start."
        ),
    },
    sources=(
        "https://github.com/pytorch/torchtitan/issues/1448",
        "https://github.com/sgl-project/sglang/pull/35160",
        "https://github.com/sgl-project/sglang-jax/pull/1282",
    ),
    fault="renormalisation-off",
    neighbours=(
        "router-bias",
        "expert-layout",
        "expert-bias",
    ),
)
