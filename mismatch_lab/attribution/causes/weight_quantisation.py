"""The engine's weights are quantised."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="weight-quantisation",
    family="weights",
    title="The engine's weights are quantised",
    mechanism=(
        "The engine loads or converts weights to 8 or 4 bits, or quantises another copy (the "
        "float32 master instead of the bfloat16 export) than the trainer uses. Each linear layer "
        "is then off by its rounding."
    ),
    signature=(
        "All quantised modules are off in themselves, layer by layer, from the first step on, in "
        "decode and prefill alike. Embeddings, norms and modules left out of quantisation are at "
        "the floor. The engine is the wrong side."
    ),
    confirmation=(
        "Start the engine without quantisation: the difference falls to the floor. Offline, the "
        "reference with weights rounded to the same format reproduces the engine."
    ),
    remedy_id="same-precision-weights",
    remedy=(
        "Sample with the trainer's dtype, or train what you sample (quantisation-aware), or "
        "correct with importance weights."
    ),
    remedies={
        "verl": (
            "Remove actor_rollout_ref.rollout.quantization and quantisation in engine_kwargs, or "
            "train with actor_rollout_ref.actor.qat.enable=True."
        ),
        "TRL": "Load vLLM from the unquantised checkpoint, with the trainer's dtype.",
        "NeMo-RL": (
            "Set policy.generation.vllm_cfg.precision to policy.precision; with fp8 keep "
            "loss_fn.use_importance_sampling_correction=true."
        ),
        "slime": (
            "Point --hf-checkpoint at an unquantised checkpoint, and leave --sglang-quantization "
            "unset."
        ),
        "FSDP": (
            "Start the engine without --quantization. If you quantise, quantise the bfloat16 "
            "values that the trainer computes with, not its float32 master."
        ),
    },
    sources=(
        "https://github.com/InternLM/xtuner/pull/2044",
        "https://github.com/NVIDIA/Megatron-LM/pull/6666",
        "https://github.com/tenstorrent/tt-forge-models/pull/443",
    ),
    fault="quantised-weights",
    neighbours=(
        "kv-cache-quantisation",
        "stale-weights",
        "expert-layout",
    ),
)
