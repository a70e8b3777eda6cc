"""Rotary scaling (YaRN and kin) differs between the sides."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="rope-scaling",
    family="attention",
    title="Rotary scaling (YaRN and kin) differs between the sides",
    mechanism=(
        "YaRN stretches frequencies and multiplies queries and keys with an attention factor. A "
        "side that drops an explicit factor, computes another default or ignores the scaling gets "
        "other attention scores."
    ),
    signature=(
        "Nothing at position 0 (one key), then a slow growth. With a wrong attention factor the "
        "norms of rotated queries and keys differ by one constant and angles agree; without "
        "scaling altogether the angles differ. Present from the first step."
    ),
    confirmation=(
        "Offline, the reference with another attention factor, or without its scaling, reproduces "
        "the wrong side. Hidden states at depth deep show whether norms or angles are off."
    ),
    remedy_id="rope-config",
    remedy=(
        "Write factor, original length and attention factor explicitly into the config, and check "
        "that both sides read them."
    ),
    remedies={
        "verl": (
            "Set rope_scaling for the actor with +actor_rollout_ref.model.override_config and for "
            "vLLM with actor_rollout_ref.rollout.engine_kwargs.vllm.hf_overrides, equal."
        ),
        "TRL": (
            "Write the complete rope_scaling (rope_parameters) into the checkpoint's config.json."
        ),
        "NeMo-RL": (
            "Set it with policy.hf_config_overrides and "
            "policy.generation.vllm_kwargs.hf_overrides, both."
        ),
        "slime": (
            "Check Megatron's YaRN arguments against the checkpoint's config; SGLang takes "
            "overrides with --sglang-json-model-override-args."
        ),
        "FSDP": (
            "Compare rotary_emb.attention_scaling of transformers with the engine's. Upgrade vLLM "
            "if it ignores attention_factor (prime-rl pull request 2802)."
        ),
    },
    sources=(
        "https://github.com/PrimeIntellect-ai/prime-rl/pull/2802",
        "https://github.com/NovaSky-AI/SkyRL/pull/690",
    ),
    fault="yarn-mscale",
    neighbours=(
        "rope-theta",
        "rope-precision",
        "attention-softcap",
        "attention-scale",
        "sliding-window",
    ),
)
