"""Small random models with the parts that break, and what they say of a few tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,  # large, so that attention looks somewhere
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
ROWS, LENGTH = 3, 64


def config_of(model_type: str) -> Any:
    """A small config of the architecture."""
    import transformers

    yarn = {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "original_max_position_embeddings": 16,
    }
    if model_type == "gpt_oss":
        return transformers.GptOssConfig(
            intermediate_size=24,
            num_local_experts=6,
            num_experts_per_tok=2,
            sliding_window=8,
            rope_parameters=yarn | {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
            **SIZES,
        )
    if model_type == "gemma2":
        return transformers.Gemma2Config(
            intermediate_size=48,
            sliding_window=8,
            query_pre_attn_scalar=8,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
            **SIZES,
        )
    if model_type == "qwen3_moe":
        return transformers.Qwen3MoeConfig(
            intermediate_size=48,
            moe_intermediate_size=24,
            num_experts=6,
            num_experts_per_tok=2,
            norm_topk_prob=True,
            **SIZES,
        )
    return transformers.LlamaConfig(intermediate_size=48, rope_parameters=yarn, **SIZES)


def build(model_type: str) -> Any:
    """A random model, the same at every call."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = config_of(model_type)
    model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        config, attn_implementation="eager"
    )
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "sinks")):
            torch.nn.init.normal_(parameter, std=0.5)  # random models have them zero
    return model.eval().requires_grad_(False)


def fixed_ids() -> Any:
    """[3, 64] token ids."""
    import torch

    return torch.randint(2, 96, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))


class Whole:
    """What an unbroken model feeds its layers, what they return, and its distributions."""

    def __init__(self, model: Any) -> None:
        import torch

        self.calls: list[tuple[Any, Any, Any]] = []
        handles = [
            layer.register_forward_hook(
                lambda _, args, kwargs, out: self.calls.append((args, kwargs, _hidden(out))),
                with_kwargs=True,
            )
            for layer in model.model.layers
        ]
        with torch.no_grad():
            self.logp = torch.log_softmax(model(fixed_ids(), use_cache=False).logits, -1)
        for handle in handles:
            handle.remove()

    def broken_by(self, model: Any) -> tuple[float, float]:
        """How much another model breaks: relative errors of its layers, each on the input that the
        whole one feeds it, summed; and mean |delta| in nats over whole distributions.
        """
        import torch

        errors = []
        with torch.no_grad():
            for layer, (args, kwargs, right) in zip(model.model.layers, self.calls, strict=True):
                error = (_hidden(layer(*args, **kwargs)) - right).norm(dim=-1)
                errors.append(float((error / right.norm(dim=-1)).mean()))
            logp = torch.log_softmax(model(fixed_ids(), use_cache=False).logits, -1)
        shared = logp[..., : self.logp.shape[-1]]  # a head may have more outputs than tokens
        # A token of probability 0 counts for 20 nats.
        return sum(errors), float((shared - self.logp).abs().clamp(max=20.0).mean())


def _hidden(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def token_logp(model: Any) -> np.ndarray[Any, Any]:
    """[3, 63] log-probs of the next tokens of fixed rows."""
    import torch

    ids = fixed_ids()
    with torch.no_grad():
        logp = torch.log_softmax(model(input_ids=ids, use_cache=False).logits.float(), -1)
    taken: np.ndarray[Any, Any] = logp[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1).numpy()
    return taken


@pytest.fixture(scope="session")
def build_model() -> Callable[[str], Any]:
    return build


@pytest.fixture(scope="session")
def says() -> Callable[[Any], np.ndarray[Any, Any]]:
    return token_logp


@pytest.fixture(scope="session")
def clean() -> dict[str, np.ndarray[Any, Any]]:
    """What the unbroken models say."""
    return {name: token_logp(build(name)) for name in ("gpt_oss", "gemma2", "qwen3_moe", "llama")}


@pytest.fixture(scope="session")
def whole() -> Callable[[str], Whole]:
    """The unbroken models, each run once."""
    return cache(lambda name: Whole(build(name)))
