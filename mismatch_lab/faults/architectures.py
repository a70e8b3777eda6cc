"""Which architectures have a part, and where it is first, from config.json alone."""

from __future__ import annotations

from collections.abc import Callable

from mismatch_lab.faults.base import Config

GPT_OSS = "gpt_oss"


def is_moe(model_type: str, config: Config) -> bool:
    del model_type
    return bool(config.get("num_local_experts") or config.get("num_experts"))


def is_gpt_oss(model_type: str, config: Config) -> bool:
    del config
    return model_type == GPT_OSS


def softmax_before_top_k(model_type: str, config: Config) -> bool:
    """Weights of the chosen experts are renormalised by an option of their own."""
    return is_moe(model_type, config) and bool(config.get("norm_topk_prob"))


def has_window(model_type: str, config: Config) -> bool:
    del model_type
    return bool(config.get("sliding_window")) and "sliding_attention" in layer_types(config)


def has_attention_softcap(model_type: str, config: Config) -> bool:
    del model_type
    return bool(config.get("attn_logit_softcapping"))


def has_final_softcap(model_type: str, config: Config) -> bool:
    del model_type
    return bool(config.get("final_logit_softcapping"))


def has_yarn(model_type: str, config: Config) -> bool:
    del model_type
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return rope.get("rope_type") == "yarn"


def is_tied(model_type: str, config: Config) -> bool:
    """Head and embedding are one tensor; Gemma's config.json leaves its default out."""
    return bool(config.get("tie_word_embeddings", model_type.startswith("gemma")))


def layer_types(config: Config) -> list[str]:
    return list(config.get("layer_types") or [])


def windowed_layers(config: Config) -> list[int]:
    return [i for i, kind in enumerate(layer_types(config)) if kind == "sliding_attention"]


def first_attention(config: Config) -> str:
    del config
    return "model.layers.0.self_attn"


def first_window(config: Config) -> str:
    return f"model.layers.{windowed_layers(config)[0]}.self_attn"


def last_window(config: Config) -> str:
    return f"model.layers.{windowed_layers(config)[-1]}.self_attn"


def middle_layer(config: Config) -> int:
    """The layer that single-layer faults break: neither the first nor the last one."""
    return int(config["num_hidden_layers"]) // 2


def middle(part: str) -> Callable[[Config], str]:
    """`model.layers.N.PART` of the middle layer."""
    return lambda config: f"model.layers.{middle_layer(config)}.{part}"


def head(config: Config) -> str:
    del config
    return "lm_head"


def first_experts(config: Config) -> str:
    del config
    return "model.layers.0.mlp.experts"


def first_router(config: Config) -> str:
    gpt_oss = config.get("model_type") == GPT_OSS
    return "model.layers.0.mlp." + ("router" if gpt_oss else "gate")
