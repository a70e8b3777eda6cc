"""Rounding makes the sides choose different experts."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="routing-flips",
    family="moe",
    title="Rounding makes the sides choose different experts",
    mechanism=(
        "Engine and trainer round differently, as always. Where two experts are nearly tied, that "
        "decides which one is used, and the outputs of two experts have nothing in common."
    ),
    signature=(
        "A heavy tail: tokens with a flip differ much, tokens without one are at the dense floor. "
        "Flips sit where the router's margin is small and favour no expert. Router logits differ "
        "only by rounding. Each side is deterministic by itself."
    ),
    confirmation=(
        "Split tokens by flip: unflipped tokens are at the floor. Replaying the engine's experts "
        "in the trainer removes the tail. Float32 on both sides removes the flips."
    ),
    remedy_id="router-replay",
    remedy=(
        "Replay the engine's expert choices in the trainer (R3). Float32 routers on both sides "
        "make flips rarer."
    ),
    remedies={
        "verl": (
            "Set actor_rollout_ref.rollout.enable_rollout_routing_replay=True and "
            "actor_rollout_ref.actor.router_replay.mode=R3."
        ),
        "TRL": (
            "There is no replay. Keep vllm_importance_sampling_correction on and routers in "
            "float32."
        ),
        "NeMo-RL": "Set policy.router_replay.enabled=true.",
        "slime": "Set --use-rollout-routing-replay.",
        "FSDP": (
            "Ask vLLM for routed experts (enable_return_routed_experts) and use them instead of "
            "the trainer's top-k; gather the weights from the live router so that gradients flow."
        ),
    },
    sources=(
        "https://arxiv.org/abs/2510.11370",
        "https://github.com/NVIDIA/Megatron-LM/pull/4256",
        "https://github.com/radixark/miles/pull/2235",
    ),
    fault="near-tie-flips",
    neighbours=(
        "router-precision",
        "routing-two-pass",
        "numerics-floor",
        "router-bias",
    ),
)
