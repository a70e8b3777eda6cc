"""Rotary frequencies were rounded to low precision."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="rope-precision",
    family="attention",
    title="Rotary frequencies were rounded to low precision",
    mechanism=(
        "model.to(bfloat16), a meta-device load or FSDP's casting of buffers also rounds inv_freq. "
        "Each frequency is then slightly off, and the phase error is the frequency's error times "
        "the position."
    ),
    signature=(
        "Nothing at position 0, and growth in proportion to position. Norms of rotated queries and "
        "keys agree, their phases do not. Unlike with a wrong base or scaling, it starts tiny. It "
        "is easily taken for a floor that grows with length."
    ),
    confirmation=(
        "Recompute inv_freq in float32 after the cast: the growth with position goes away. "
        "Offline, the reference with its inv_freq rounded to the dtype reproduces the wrong side."
    ),
    remedy_id="fp32-inv-freq",
    remedy=(
        "Keep inv_freq in float32: recompute it after every cast of the model, and leave buffers "
        "out of mixed precision."
    ),
    remedies={
        "verl": (
            "Set actor_rollout_ref.actor.fsdp_config.model_dtype=fp32 (the default), so that the "
            "model is not cast as a whole; check inv_freq.dtype in the worker."
        ),
        "TRL": (
            'Load with model_init_kwargs={"dtype": "bfloat16"} instead of calling '
            "model.bfloat16(): from_pretrained keeps inv_freq."
        ),
        "NeMo-RL": "Use an Automodel version with the fix of pull request 2549.",
        "slime": (
            "Megatron computes its frequencies itself. For the FSDP backend check inv_freq.dtype "
            "after loading."
        ),
        "FSDP": (
            "After model.bfloat16() or to_empty, recompute rotary_emb.inv_freq in float32. In "
            "MixedPrecision of FSDP1 leave buffer_dtype unset."
        ),
    },
    sources=(
        "https://github.com/NVIDIA-NeMo/Automodel/pull/2549",
        "https://github.com/Modalities/modalities/pull/462",
        "https://github.com/NovaSky-AI/SkyRL/issues/1709",
        "https://github.com/huggingface/transformers/issues/25681",
    ),
    fault="rope-bf16",
    neighbours=(
        "rope-theta",
        "rope-scaling",
        "numerics-floor",
        "kv-cache-quantisation",
    ),
)
