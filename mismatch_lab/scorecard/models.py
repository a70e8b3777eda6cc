"""The scorecard's other architectures, trained small: `python -m mismatch_lab.scorecard.models`.

They learn the word problems of mini-gpt-oss for a few minutes on one CPU thread. Random weights
would not do: their distributions are flat, and what depends on peaks (temperature, truncation,
softcaps, sinks) would not show.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mismatch_lab.errors import InputError
from mismatch_lab.schema import OptionValue
from mismatch_lab.scorecard.architectures import ARCHITECTURES as ARCHITECTURE_NAMES
from mismatch_lab.scorecard.architectures import DIFFERENT, PREFIX, make

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

STEPS = 1200
SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "initializer_range": 0.05,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 128,
}


def _llama_yarn(**given: Any) -> PreTrainedConfig:
    from transformers import LlamaConfig

    return LlamaConfig(intermediate_size=384, rope_parameters=YARN, **SIZES, **given)


def _qwen3_moe(**given: Any) -> PreTrainedConfig:
    from transformers import Qwen3MoeConfig

    return Qwen3MoeConfig(
        intermediate_size=256,
        moe_intermediate_size=128,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        **SIZES,
        **given,
    )


def _gemma2(**given: Any) -> PreTrainedConfig:
    from transformers import Gemma2Config

    return Gemma2Config(
        intermediate_size=384,
        sliding_window=32,
        query_pre_attn_scalar=32,
        # Tight enough to act on a model of this size, as the real ones act on a large one.
        attn_logit_softcapping=8.0,
        final_logit_softcapping=12.0,
        **SIZES,
        **given,
    )


def _qwen2(**given: Any) -> PreTrainedConfig:
    """Biases on queries, keys and values alone; a tied head."""
    from transformers import Qwen2Config

    return Qwen2Config(intermediate_size=384, tie_word_embeddings=True, **SIZES, **given)


def _phi3(**given: Any) -> PreTrainedConfig:
    """Fused projections, rotary on a part of each head, a window on every layer; a tied head."""
    from transformers import Phi3Config

    return Phi3Config(
        intermediate_size=384,
        sliding_window=48,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.75,
        },
        tie_word_embeddings=True,
        **SIZES,
        **given,
    )


def _granite(**given: Any) -> PreTrainedConfig:
    """Multipliers of embedding, attention, residual and logits; a tied head."""
    from transformers import GraniteConfig

    return GraniteConfig(
        intermediate_size=384,
        embedding_multiplier=12.0,
        attention_multiplier=1 / 32,
        residual_multiplier=0.25,
        logits_scaling=4.0,
        tie_word_embeddings=True,
        **SIZES,
        **given,
    )


def _olmoe(**given: Any) -> PreTrainedConfig:
    """Experts whose weights are not renormalised; norms over all of the queries and of the keys."""
    from transformers import OlmoeConfig

    return OlmoeConfig(
        intermediate_size=128, num_experts=8, num_experts_per_tok=3, **SIZES, **given
    )


def _starcoder2(**given: Any) -> PreTrainedConfig:
    """LayerNorms, a bias on every projection, an MLP without a gate; a tied head."""
    from transformers import Starcoder2Config

    return Starcoder2Config(
        intermediate_size=512,
        hidden_act="gelu_pytorch_tanh",
        use_bias=True,
        sliding_window=None,
        residual_dropout=0.0,
        embedding_dropout=0.0,
        tie_word_embeddings=True,
        **SIZES,
        **given,
    )


def _cohere(**given: Any) -> PreTrainedConfig:
    """Attention and MLP side by side behind one norm, interleaved rotary, scaled logits."""
    from transformers import CohereConfig

    return CohereConfig(
        intermediate_size=384, logit_scale=0.25, tie_word_embeddings=True, **SIZES, **given
    )


ARCHITECTURES: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama-yarn": _llama_yarn,
    "qwen3-moe": _qwen3_moe,
    "gemma2": _gemma2,
}
"""name -> its configuration. Another architecture is one function and one row."""

HELD_OUT_ARCHITECTURES: dict[str, Callable[..., PreTrainedConfig]] = {
    "qwen2": _qwen2,
    "phi3": _phi3,
    "granite": _granite,
    "olmoe": _olmoe,
}
"""Architectures on which nothing was developed: for `--subset held-out` alone."""

SECOND_ARCHITECTURES: dict[str, Callable[..., PreTrainedConfig]] = {
    "starcoder2": _starcoder2,
    "cohere": _cohere,
}
"""Others on which nothing was developed: for `--subset held-out-second` alone."""
UNSEEN_ARCHITECTURES = HELD_OUT_ARCHITECTURES | SECOND_ARCHITECTURES
EVERY_ARCHITECTURE = ARCHITECTURES | UNSEEN_ARCHITECTURES


RANDOM_MODELS = tuple(f"{PREFIX}{name}" for name in ARCHITECTURE_NAMES if name not in DIFFERENT)
"""Untrained ones that are healthy: for `--subset architectures` alone."""


TRANSFORMERS_ARGS: dict[str, dict[str, OptionValue]] = {
    # transformers' default attention drops Gemma-2's softcap: a defect of its own, which the tool
    # finds, and which would sit beneath every planted one.
    "gemma2": {"attn_implementation": "eager"},
}
"""name -> options without which transformers does not run the architecture as it is meant."""


def checkpoint(name: str, cache: Path) -> str:
    """The folder of a trained model, training it first where the cache does not hold it.

    Raises:
        InputError: no such architecture.
    """
    from mismatch_lab.checkpoints.config import EMBEDDED

    if name == EMBEDDED:
        return EMBEDDED
    if name in RANDOM_MODELS:
        if not (cache / name).exists():
            make(name.removeprefix(PREFIX), cache / name)
        return str(cache / name)
    if name not in EVERY_ARCHITECTURE:
        known = ", ".join([EMBEDDED, *EVERY_ARCHITECTURE])
        raise InputError(f"The scorecard has no architecture {name!r}.", f"Available: {known}.")
    folder = cache / name
    if not (folder / "tokenizer_config.json").exists():
        train(name, folder)
    return str(folder)


def train(name: str, folder: Path, *, steps: int = STEPS, seed: int = 0) -> None:
    """Train an architecture and save it; a folder is there whole or not at all."""
    import torch
    from transformers import AutoModelForCausalLM

    from mismatch_lab.mini.save import save_checkpoint
    from mismatch_lab.mini.tokenizer import build_tokenizer
    from mismatch_lab.mini.train import fit

    tokenizer = build_tokenizer()
    config = EVERY_ARCHITECTURE[name](
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")  # type: ignore[no-untyped-call]
    fit(model, tokenizer, seed=seed, steps=steps)
    unfinished = folder.with_name(folder.name + ".tmp")
    save_checkpoint(model, tokenizer, unfinished)
    unfinished.rename(folder)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(
        prog="python -m mismatch_lab.scorecard.models", description=__doc__
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("names", nargs="*", default=list(ARCHITECTURES))
    args = parser.parse_args(argv)
    for name in args.names:
        train(name, args.out / name, steps=args.steps)


if __name__ == "__main__":
    main()
