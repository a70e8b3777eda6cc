"""Captured graphs still point at old weights."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="stale-graph",
    family="cache",
    title="Captured graphs still point at old weights",
    mechanism=(
        "CUDA graphs hold the addresses of the tensors they were captured with. If an update "
        "replaces tensors instead of filling them in place, decode replays the graph on the old "
        "memory, while prefill, which runs eagerly, uses the new weights."
    ),
    signature=(
        "Only after the first weight update. Decode is wrong in all sequences, the engine's own "
        "prefill of the same ids is right. Fingerprints of the parameters agree, since they are "
        "the new ones."
    ),
    confirmation=(
        "Sample again with --engine-arg enforce_eager=true (SGLang: --disable-cuda-graph): the "
        "difference falls to the floor. Capturing the graphs again after the update does the same."
    ),
    remedy_id="eager-or-recapture",
    remedy=(
        "Copy new weights into the existing tensors, or capture the graphs again after each "
        "update. Until then run eagerly."
    ),
    remedies={
        "verl": "Set actor_rollout_ref.rollout.enforce_eager=True.",
        "TRL": "Start trl vllm-serve with --enforce_eager True.",
        "NeMo-RL": (
            "Set policy.generation.vllm_cfg.enforce_eager=true, or use a version with the fix of "
            "pull request 2895."
        ),
        "slime": "Set --sglang-disable-cuda-graph.",
        "FSDP": (
            "Update with param.data.copy_(new), not by assigning a new tensor, and start the "
            "engine with enforce_eager."
        ),
    },
    sources=(
        "https://github.com/NVIDIA-NeMo/RL/pull/2895",
        "https://github.com/sgl-project/sglang/pull/27140",
        "https://github.com/vllm-project/vllm/issues/48941",
    ),
    fault="stale-graph",
    neighbours=(
        "stale-prefix-cache",
        "kv-cache-quantisation",
        "decode-prefill-divergence",
        "stale-tensor",
    ),
)
