"""Rotary embedding with another base on one side."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="rope-theta",
    family="attention",
    title="Rotary embedding with another base on one side",
    mechanism=(
        "The base (rope_theta) comes from a config that one side reads differently, or loses: "
        "renamed fields (rope_scaling, rope_parameters), a default that fills the gap, an override "
        "on one side only."
    ),
    signature=(
        "Nothing at position 0, then a difference that grows with position and levels off once "
        "phases are scrambled. Angles are off by a factor that depends on the dimension; norms "
        "agree."
    ),
    confirmation=(
        "Compare the configs that both sides resolved. Offline, the reference with the other base "
        "reproduces the wrong side at every position."
    ),
    remedy_id="rope-config",
    remedy="Set the base explicitly and equal on both sides.",
    remedies={
        "verl": (
            "Set it for the actor with +actor_rollout_ref.model.override_config, and for vLLM with "
            "actor_rollout_ref.rollout.engine_kwargs.vllm.hf_overrides. Better: write it into the "
            "checkpoint's config.json."
        ),
        "TRL": "Write it into the checkpoint's config.json, which both sides read.",
        "NeMo-RL": (
            "Set it with policy.hf_config_overrides and "
            "policy.generation.vllm_kwargs.hf_overrides, both."
        ),
        "slime": "Give Megatron the checkpoint's value with --rotary-base.",
        "FSDP": (
            "Print model.config.rope_parameters and the engine's resolved config, and override "
            "neither alone."
        ),
    },
    sources=("https://github.com/NovaSky-AI/SkyRL/pull/690",),
    fault="rope-theta",
    neighbours=(
        "rope-scaling",
        "rope-precision",
        "sliding-window",
    ),
)
