"""The LoRA adapter never reaches the engine."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="adapter-not-delivered",
    family="weights",
    title="The LoRA adapter never reaches the engine",
    mechanism=(
        "Only base weights are pushed, or the adapter is pushed under names the engine ignores, or "
        "merging rounds the small update away. The engine keeps sampling from the base model."
    ),
    signature=(
        "Nothing at step 0. Afterwards the engine agrees with the initial policy, and the "
        "difference grows with every step, whatever the sync interval. What is missing has the "
        "rank of the adapter and sits in its target modules only."
    ),
    confirmation=(
        "Score the engine's tokens with the adapter switched off: that agrees to the floor. Hash "
        "what is pushed: it does not change from step to step."
    ),
    remedy_id="deliver-adapter",
    remedy=(
        "Merge the adapter in float32 before pushing, or load it as an adapter in the engine, and "
        "check that the pushed tensors change."
    ),
    remedies={
        "verl": (
            "Use a version with the fix of issue 7495, and check that tensors with lora in their "
            "names are pushed (actor_rollout_ref.model.lora_rank above 0)."
        ),
        "TRL": (
            "TRL merges the adapter before each sync. Check target_modules, and keep the base in a "
            "dtype that the update survives."
        ),
        "NeMo-RL": (
            "See issue 3696: a merge into bfloat16 rounds the update away. Use its adapter-native "
            "sync where available."
        ),
        "slime": (
            "If you added LoRA through a custom model provider, merge before the conversion to the "
            "engine's names."
        ),
        "FSDP": "With PEFT: merge_adapter(), push, unmerge_adapter(). Merge in float32.",
    },
    sources=(
        "https://github.com/verl-project/verl/issues/7495",
        "https://github.com/NVIDIA-NeMo/RL/issues/3696",
        "https://github.com/NovaSky-AI/SkyRL/issues/1776",
    ),
    fault="adapter-missing",
    neighbours=(
        "stale-weights",
        "stale-tensor",
    ),
)
