"""Attention scores are not capped on one side."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="attention-softcap",
    family="attention",
    title="Attention scores are not capped on one side",
    mechanism=(
        "Gemma 2 and Grok squash attention scores with c * tanh(s / c) before the softmax. Kernels "
        "without the option, or glue that does not pass it on, leave the scores as they are."
    ),
    signature=(
        "Nothing at the first token, where there is one key. It begins in the attention of the "
        "first layer and is larger where scores are large. Text stays fluent, so nobody notices."
    ),
    confirmation=(
        "Switch the attention backend of the suspect to one that has the cap (eager, flex "
        "attention). Offline, the reference without its attention cap reproduces the wrong side."
    ),
    remedy_id="attention-softcap",
    remedy="Use an attention backend that applies attn_logit_softcapping on both sides.",
    remedies={
        "verl": (
            "Set +actor_rollout_ref.model.override_config.attn_implementation=eager; on vLLM's "
            "side choose an attention backend with support for it."
        ),
        "TRL": (
            'Set model_init_kwargs={"attn_implementation": "eager"}, which transformers recommends '
            "for training Gemma 2."
        ),
        "NeMo-RL": (
            "For a DTensor policy test with policy.sequence_packing.enabled=false, which changes "
            "the attention kernel. For Megatron check the converted model."
        ),
        "slime": (
            "Change --sglang-attention-backend if SGLang drops it (issue 33915); check the "
            "Megatron model if the trainer does."
        ),
        "FSDP": 'Load with attn_implementation="eager". sdpa has no cap.',
    },
    sources=(
        "https://github.com/sgl-project/sglang/issues/33915",
        "https://github.com/flashinfer-ai/flashinfer/issues/1193",
        "https://github.com/vllm-project/vllm-metal/issues/665",
    ),
    fault="attention-softcap",
    neighbours=(
        "attention-sinks-dropped",
        "rope-scaling",
        "attention-scale",
        "logit-softcap",
    ),
)
