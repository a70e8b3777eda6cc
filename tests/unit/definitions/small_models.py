"""A small random checkpoint of each architecture that is defined: model_type -> its config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SIZES: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
WINDOW = 12
EXPERTS = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.1] * 8,
    "long_factor": [2.5] * 8,
    "original_max_position_embeddings": 32,
}
GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100000.0},
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, yarn": ("llama", {"rope_parameters": YARN}),
    "llama, llama3": ("llama", {"rope_parameters": LLAMA3}),
    "mistral": ("mistral", {"sliding_window": WINDOW}),
    "qwen2": ("qwen2", {}),
    "qwen2, windows": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    ),
    "qwen3": ("qwen3", {}),
    "seed_oss": ("seed_oss", {}),
    "smollm3": ("smollm3", {}),
    "ernie4_5": ("ernie4_5", {}),
    "phi3": ("phi3", {"sliding_window": WINDOW, "partial_rotary_factor": 0.5}),
    "phi3, longrope": (
        "phi3",
        {
            "sliding_window": None,
            "original_max_position_embeddings": 32,
            "rope_parameters": LONGROPE,
        },
    ),
    "gemma": ("gemma", {}),
    "gemma2": (
        "gemma2",
        {
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 32,
            "attn_logit_softcapping": 4.0,
            "final_logit_softcapping": 6.0,
        },
    ),
    "gemma3_text": (
        "gemma3_text",
        {
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 32,
            "num_hidden_layers": 7,
            "rope_parameters": GEMMA3_ROPE,
        },
    ),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {"sliding_window": WINDOW}),
    "exaone4": ("exaone4", {"sliding_window": WINDOW}),
    "granite": (
        "granite",
        {
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.1,
            "residual_multiplier": 0.4,
            "logits_scaling": 2.0,
        },
    ),
    "cohere": ("cohere", {"logit_scale": 0.25, "use_qk_norm": True}),
    "cohere2": ("cohere2", {"layer_types": ["full_attention"] * 4, "logit_scale": 0.25}),
    "glm4": ("glm4", {"partial_rotary_factor": 0.5}),
    "starcoder2": ("starcoder2", {"use_bias": True, "sliding_window": WINDOW}),
    "nemotron": ("nemotron", {}),
    "apertus": ("apertus", {}),
    "gpt_oss": (
        "gpt_oss",
        {
            "sliding_window": WINDOW,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": YARN | {"truncate": False},
        },
    ),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": ("qwen3_moe", {"num_experts": 4, "norm_topk_prob": True, **EXPERTS}),
    "qwen3_moe, not renormalised": (
        "qwen3_moe",
        {"num_experts": 4, "norm_topk_prob": False, **EXPERTS},
    ),
    "olmoe": ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    "glm4_moe": (
        "glm4_moe",
        {
            "n_routed_experts": 8,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "n_shared_experts": 2,
            "use_qk_norm": True,
            "partial_rotary_factor": 0.5,
            "routed_scaling_factor": 1.5,
            **EXPERTS,
        },
    ),
}
"""name -> model_type, and what its config says beside SIZES."""


def save_model(case: str, folder: Path) -> Any:
    """transformers' model of a case with random weights, saved to a folder; it is returned."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    kind, given = CASES[case]
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**{**SIZES, **given})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.ndim >= 2:
                tensor.normal_(0, 0.15)
            elif "norm" in name and name.endswith("weight"):
                tensor.add_(torch.randn_like(tensor) * 0.1)
            elif name.endswith(("bias", "sinks")):
                tensor.normal_(0, 0.3)
    model.save_pretrained(folder)
    return model.eval()
