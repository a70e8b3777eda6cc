"""Random attention problems, and a tiny random GPT-OSS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _problem(
    tokens: int, keys: int, dtype: torch.dtype, heads: int = 4, key_heads: int = 2, width: int = 16
) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(tokens, heads, width), (keys, key_heads, width), (keys, key_heads, width), (heads,)]
    given = [torch.randn(shape, generator=generator) for shape in shapes]
    return [x.to(dtype) for x in given], torch.randn(shapes[0], generator=generator).to(dtype)


@pytest.fixture
def problem() -> Callable[..., tuple[list[Tensor], Tensor]]:
    """(q, k, v, sinks) and dout, normal random numbers."""
    return _problem


@pytest.fixture
def run() -> Callable[[Attend, list[Tensor], Tensor], list[Tensor]]:
    """Output and the four gradients, in float64."""

    def run_(attend: Attend, inputs: list[Tensor], dout: Tensor) -> list[Tensor]:
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        out = attend(*leaves)
        grads = torch.autograd.grad(out, leaves, dout)
        return [x.double() for x in (out.detach(), *grads)]

    return run_


@pytest.fixture
def errors() -> Callable[[list[Tensor], list[Tensor]], list[float]]:
    """Relative error of each tensor, in the Frobenius norm."""

    def errors_(got: list[Tensor], true: list[Tensor]) -> list[float]:
        return [float((a - b).norm() / b.norm()) for a, b in zip(got, true, strict=True)]

    return errors_


@pytest.fixture
def tiny() -> Callable[..., nn.Module]:
    """GPT-OSS of two layers, the first with a window of 6, with sinks that take much weight."""

    def tiny_(**changed: Any) -> nn.Module:
        from transformers import GptOssConfig, GptOssForCausalLM

        sizes: dict[str, Any] = {
            "vocab_size": 40,
            "hidden_size": 32,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 128,
            "initializer_range": 0.3,
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 6,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "attn_implementation": "eager",
        }
        torch.manual_seed(0)
        model = GptOssForCausalLM(GptOssConfig(**sizes | changed)).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("sinks"):
                nn.init.normal_(parameter)
        return model

    return tiny_
