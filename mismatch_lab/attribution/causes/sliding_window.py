"""The sliding window has another width on one side."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="sliding-window",
    family="attention",
    title="The sliding window has another width on one side",
    mechanism=(
        "Some layers attend only to the last W tokens. Off by one (a kernel counts the token "
        "itself, another does not), or ignored altogether, the window is wider or narrower on one "
        "side."
    ),
    signature=(
        "Exactly nothing before position W; from there on a difference that is small for "
        "off-by-one and grows with position where the window is ignored. It begins in the first "
        "layer that has a window. If decode alone is wrong, it is the decode kernel: see "
        "decode-prefill-divergence."
    ),
    confirmation=(
        "Compare tokens before and after the window's width. Offline, the reference with W - 1, W "
        "+ 1 or no window at all reproduces the wrong side, and tells which it is."
    ),
    remedy_id="sliding-window",
    remedy=(
        "Use an attention path that heeds the width of the config, and pass the width the way that "
        "kernel counts."
    ),
    remedies={
        "verl": (
            "Test with +actor_rollout_ref.model.override_config.attn_implementation=eager. On the "
            "engine side change the attention backend."
        ),
        "TRL": (
            'Test with model_init_kwargs={"attn_implementation": "eager"}, and upgrade '
            "transformers (issue 39408)."
        ),
        "NeMo-RL": (
            "For a Megatron policy check that the converted model kept its window; for DTensor "
            "test with policy.sequence_packing.enabled=false, which leaves FlashAttention 2."
        ),
        "slime": (
            "Megatron takes the window from --window-size and its layers from "
            "--window-attn-skip-freq. Change --sglang-attention-backend where SGLang is the wrong "
            "side."
        ),
        "FSDP": (
            'Load with attn_implementation="eager" to test, and compare config.sliding_window and '
            "config.layer_types with what the kernel is given."
        ),
    },
    sources=(
        "https://github.com/huggingface/transformers/issues/39408",
        "https://github.com/huggingface/transformers/issues/29623",
        "https://github.com/sgl-project/sglang/issues/33915",
        "https://github.com/vllm-project/speculators/pull/684",
    ),
    fault="window-off-by-one",
    neighbours=(
        "rope-precision",
        "rope-theta",
        "kv-cache-quantisation",
        "decode-prefill-divergence",
    ),
)
