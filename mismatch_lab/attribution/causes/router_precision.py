"""The MoE router runs in lower precision on one side."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="router-precision",
    family="precision",
    title="The MoE router runs in lower precision on one side",
    mechanism=(
        "Router logits, their softmax or the top-k are computed in bfloat16 on one side and in "
        "float32 on the other. Near-ties then fall differently, and expert weights are rounded. "
        "bfloat16 probabilities can collapse to exact ties, which top-k breaks arbitrarily."
    ),
    signature=(
        "Router logits differ slightly from the first MoE layer on. Chosen experts differ only "
        "where the margin is small, with no expert favoured. Few tokens carry nearly all of the "
        "difference: unflipped tokens are at the floor, flipped ones far above, so the tail is "
        "heavy."
    ),
    confirmation=(
        "Run the router in float32 on both sides. Offline, the reference with only its router in "
        "bfloat16 flips the same tokens as the wrong side, and a reference with one dtype "
        "throughout does not."
    ),
    remedy_id="fp32-router",
    remedy="Compute the router (linear layer, softmax or sigmoid, top-k) in float32 on both sides.",
    remedies={
        "verl": (
            "On a Megatron actor set "
            "actor_rollout_ref.actor.megatron.override_transformer_config.moe_router_dtype=fp32. "
            "With FSDP, keep the router in float32 in the model code. Replay "
            "(actor_rollout_ref.actor.router_replay.mode=R3 with "
            "actor_rollout_ref.rollout.enable_rollout_routing_replay=True) removes the flips."
        ),
        "TRL": (
            "There is no setting. Keep the router in float32 in the model code, and load the same "
            'code in vLLM with vllm_model_impl="transformers" to test it.'
        ),
        "NeMo-RL": (
            "Set policy.megatron_cfg.moe_router_dtype to fp32 or fp64, or gate_precision of the "
            "Automodel backend; replay with policy.router_replay.enabled=true."
        ),
        "slime": "Set --moe-router-dtype fp32; replay with --use-rollout-routing-replay.",
        "FSDP": (
            "Wrap the routers with fully_shard under a mixed-precision policy of their own "
            "(param_dtype=torch.float32), or cast inside the router's forward."
        ),
    },
    sources=(
        "https://github.com/PrimeIntellect-ai/prime-rl/pull/1167",
        "https://github.com/ViperEkura/AstrAI/pull/57",
        "https://github.com/ISEEKYAN/Megatron-LM/pull/84",
    ),
    fault="router-bf16",
    neighbours=(
        "routing-flips",
        "router-bias",
        "routing-two-pass",
    ),
)
