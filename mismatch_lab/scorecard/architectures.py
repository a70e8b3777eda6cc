"""Small models of random weights, one of each decoder that transformers and vLLM both know.

None is broken, so none may be called so: they are the card's controls for what nobody tried. Random
weights do for that, where they are not degenerate: norms away from 1, biases away from 0, matrices
wide enough that distributions are peaked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "random-"
"""In front of a model's name, which is otherwise its `model_type` in transformers."""

SEED = 0
MATRICES, NORMS, BIASES, CORRECTIONS = 0.08, 0.1, 0.1, 0.3
"""Standard deviations: of matrices and biases around 0, of norms around what they are made with, of
router correction biases (`e_score_correction_bias`, a buffer) around 0."""

PLAIN: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
"""What most configurations call their sizes. Heads of 32: vLLM's CPU kernels have no smaller."""

GPT2: dict[str, Any] = {
    "n_embd": 128,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 512,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
}
HEADS = {"head_dim": 32}
LOCAL = {"num_local_experts": 8, "num_experts_per_tok": 2}
ROUTED = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
}
# vLLM's CPU kernel of latent attention has these two sizes alone.
LATENT = {
    "q_lora_rank": 32,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 64,
    "v_head_dim": 32,
    "num_key_value_heads": 4,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 128,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
}
MULTIPLIERS = {
    "embedding_multiplier": 2.0,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.2,
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "afmoe": HEADS | {
        "num_experts": 8, "num_experts_per_tok": 2, "num_shared_experts": 1,
        "moe_intermediate_size": 64, "sliding_window": 32, "num_dense_layers": 1,
        "score_func": "sigmoid", "route_norm": True, "n_group": 1, "topk_group": 1,
    },
    "apertus": {},
    "arcee": {},
    "bitnet": {},
    "bloom": GPT2 | {"hidden_size": 128},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"sliding_window": 32, "logit_scale": 0.25},
    "deepseek_v2": ROUTED | LATENT | {
        "first_k_dense_replace": 1, "topk_method": "group_limited_greedy",
    },
    "deepseek_v3": ROUTED | LATENT | {
        "first_k_dense_replace": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
    },
    "dots1": ROUTED | HEADS | {"first_k_dense_replace": 1, "sliding_window": None},
    "ernie4_5": HEADS,
    "ernie4_5_moe": HEADS | {
        "moe_intermediate_size": 64, "moe_k": 2, "moe_num_experts": 8, "moe_num_shared_experts": 1,
    },
    "exaone4": HEADS | {"sliding_window": 32, "sliding_window_pattern": 3},
    "exaone_moe": HEADS | {
        "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
        "sliding_window": 32, "sliding_window_pattern": 3,
    },
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "flex_olmo": {"num_experts": 8, "num_experts_per_tok": 2},
    "gemma": HEADS,
    "gemma3_text": HEADS | {"sliding_window": 32, "query_pre_attn_scalar": 32},
    "glm": HEADS,
    "glm4": HEADS,
    "glm4_moe": ROUTED | HEADS | {
        "n_group": 1, "first_k_dense_replace": 1, "use_qk_norm": True,
    },
    "gpt2": GPT2,
    "gpt_bigcode": GPT2 | {"num_key_value_heads": 1},
    "gpt_neox": {"num_key_value_heads": 4},
    "gptj": GPT2 | {"rotary_dim": 16},
    "granite": MULTIPLIERS,
    "granitemoe": MULTIPLIERS | LOCAL,
    "granitemoeshared": MULTIPLIERS | LOCAL | {"shared_intermediate_size": 64},
    "helium": HEADS,
    "hunyuan_v1_dense": HEADS,
    "hunyuan_v1_moe": HEADS | {"num_experts": 8, "moe_topk": 2},
    "jais2": HEADS,
    "llama": {},
    "mistral": {"sliding_window": 32},
    "mixtral": LOCAL | {"sliding_window": None},
    "nemotron": {},
    "olmo": {"clip_qkv": 8.0},
    "olmo2": {},
    "olmo3": {"sliding_window": 32},
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 2},
    "opt": {"ffn_dim": 256, "word_embed_proj_dim": 128, "dropout": 0.0},
    "phi": {"partial_rotary_factor": 0.5},
    "phi3": {"sliding_window": None},
    "phimoe": LOCAL | {
        "sliding_window": None, "attention_bias": True, "lm_head_bias": True,
        "architectures": ["PhiMoEForCausalLM"],
    },
    "qwen2": {},
    "qwen2_moe": {
        "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 64,
    },
    "qwen3": HEADS,
    "qwen3_moe": HEADS | {
        "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
        "norm_topk_prob": True,
    },
    "seed_oss": HEADS | {"attention_dropout": 0.0, "residual_dropout": 0.0},
    "smollm3": {"no_rope_layer_interval": 3},
    "stablelm": {"use_qkv_bias": True},
    "starcoder2": {"sliding_window": None, "residual_dropout": 0.0, "embedding_dropout": 0.0},
}  # fmt: skip
"""model_type -> what its configuration has beside `PLAIN`, or has under another name where it is
published (`architectures`). Another architecture is one row.
"""

DIFFERENT = {
    "apertus": "vLLM holds the activation's parameters in bfloat16 whatever the dtype",
    "bloom": "vLLM's GELU is exact, BLOOM's is the approximation by tanh",
    "cohere2": "vLLM's sliding window has one key more than transformers'",
    "ernie4_5_moe": "vLLM's router on a CPU leaves out the correction bias",
    "phimoe": "vLLM leaves out the head's bias; in training mode experts are drawn at random",
}
"""Real differences of vLLM 0.32 on a CPU from transformers 5.19, found with these models: they are
no controls, until a version mends them."""

CI_ARCHITECTURES = (
    "exaone4",
    "glm4_moe",
    "qwen2_moe",
    "stablelm",
    "gemma3_text",
    "opt",
    "deepseek_v3",
    "phi",
)
"""Held by CI: those that were called broken or crashed the tool until taps were held against their
siblings, latent attention, and one that vLLM runs through transformers' own modules."""


def make(model_type: str, folder: Path, **given: Any) -> None:
    """Write a checkpoint: parameters in bfloat16, buffers in float32, the embedded tokenizer.

    The same arguments give the same numbers; a folder is there whole or not at all.

    Args:
        model_type: a row of `ARCHITECTURES`.
        folder: must not be there.
        given: of the configuration, over the row's.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    from mismatch_lab.mini import checkpoint_dir

    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir())
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    given = ARCHITECTURES[model_type] | given
    published = given.pop("architectures", None)
    config = CONFIG_MAPPING[model_type](
        **PLAIN | {"vocab_size": len(tokenizer), "bos_token_id": None} | ends
        | given
    )  # fmt: skip
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        _fill(name, parameter.data)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.normal_(0, CORRECTIONS)
    # Neutral: an engine that reads sampling defaults from here must not truncate.
    model.generation_config = GenerationConfig(**ends)  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    unfinished = folder.with_name(folder.name + ".tmp")
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    if published is not None:
        path = unfinished / "config.json"
        saved = json.loads(path.read_text(encoding="utf-8")) | {"architectures": published}
        path.write_text(json.dumps(saved, indent=2), encoding="utf-8")
    unfinished.rename(folder)


def _fill(name: str, values: Tensor) -> None:
    if values.dim() >= 2:
        values.normal_(0, MATRICES)
    elif name.endswith("bias"):
        values.normal_(0, CORRECTIONS if "correction" in name else BIASES)
    else:
        values.add_(values.new_empty(values.shape).normal_(0, NORMS))
