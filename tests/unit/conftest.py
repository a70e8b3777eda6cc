"""Tiny random models of the architectures that alterations reach."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 16,
}
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 6}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

Tiny = Callable[[str], nn.Module]


def _config(kind: str) -> Any:
    import transformers as t

    configs: dict[str, Callable[[], Any]] = {
        "gpt_oss": lambda: t.GptOssConfig(
            **SIZES | SLIDING,
            num_local_experts=4,
            num_experts_per_tok=2,
            rope_parameters=dict(YARN),
        ),
        "llama": lambda: t.LlamaConfig(**SIZES, rope_parameters=dict(YARN)),
        "plain_llama": lambda: t.LlamaConfig(**SIZES, tie_word_embeddings=True),
        "qwen2": lambda: t.Qwen2Config(
            **SIZES | SLIDING, use_sliding_window=True, max_window_layers=1
        ),
        "qwen3": lambda: t.Qwen3Config(**SIZES),
        "qwen3_moe": lambda: t.Qwen3MoeConfig(**SIZES | EXPERTS, norm_topk_prob=True),
        "mixtral": lambda: t.MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
        # Caps low enough to bend the logits of a random model.
        "gemma2": lambda: t.Gemma2Config(
            **SIZES | SLIDING, attn_logit_softcapping=2.0, final_logit_softcapping=3.0
        ),
        "gemma3": lambda: t.Gemma3TextConfig(**SIZES | SLIDING),
    }
    return configs[kind]()


@cache
def _model(kind: str) -> nn.Module:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(7)
    model: nn.Module = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        _config(kind), attn_implementation="eager", experts_implementation="eager"
    )
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith(("bias", "sinks")):  # made as constants
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """A model by kind; shared, so whoever changes it has to change it back."""
    return _model


@pytest.fixture(scope="session")
def logits() -> Callable[[nn.Module], Tensor]:
    """[2, 24, V] logits of a model for fixed tokens."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 40, (2, 24), generator=generator)

    def compute(model: nn.Module) -> Tensor:
        with torch.no_grad():
            output: Tensor = model(input_ids=ids, use_cache=False).logits
        return output

    return compute
