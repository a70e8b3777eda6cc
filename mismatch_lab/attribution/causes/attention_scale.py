"""Attention scores are multiplied by another number on one side."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="attention-scale",
    family="attention",
    title="Attention scores are multiplied by another number on one side",
    mechanism=(
        "Scores are divided by the square root of the head size, unless the config says otherwise "
        "(query_pre_attn_scalar, attention_multiplier). A kernel that pads heads and scales by the "
        "padded size, glue that does not pass the scale on, or scales twice, flattens or sharpens "
        "every attention."
    ),
    signature=(
        "Nothing at the first token, where there is one key. Queries, keys and values agree, the "
        "attention's output does not, in every layer; larger where scores are large."
    ),
    confirmation=(
        "Print the scale that the kernel is handed on both sides, or switch the suspect to eager "
        "attention. Offline, the reference with its scores times one number says what the suspect "
        "says."
    ),
    remedy_id="attention-scale",
    remedy="Hand the config's own attention scale to the kernel on both sides.",
    remedies={
        "verl": (
            "Set +actor_rollout_ref.model.override_config.attn_implementation=eager to see whether "
            "the actor's kernel is at fault; compare the scale of vLLM's attention layers."
        ),
        "TRL": 'Set model_init_kwargs={"attn_implementation": "eager"} and compare.',
        "NeMo-RL": (
            "For Megatron compare the converted model's softmax_scale with the checkpoint's config."
        ),
        "slime": "Compare Megatron's softmax_scale with SGLang's RadixAttention scaling.",
        "FSDP": "Compare self_attn.scaling of transformers with the engine's attention scale.",
    },
    sources=(
        "https://github.com/huggingface/transformers/blob/main/src/transformers/models/gemma2/modeling_gemma2.py",
        "https://github.com/vllm-project/vllm/blob/main/vllm/model_executor/models/gemma2.py",
    ),
    fault="scores-scaled",
    neighbours=("rope-scaling", "attention-softcap", "attention-sinks-dropped"),
)
