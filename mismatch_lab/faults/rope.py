"""Rotary embeddings: base, scaling, and the precision of what is tabulated."""

from __future__ import annotations

import copy
from typing import Any

from mismatch_lab.faults.architectures import first_attention, has_yarn
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import rotary
from mismatch_lab.faults.rounding import rounded


def rebuild_rope(model: Any, **changed: Any) -> None:
    """transformers: frequencies and attention scaling as from a config with other parameters."""
    for embedding in rotary(model):
        config = copy.deepcopy(embedding.config)
        config.rope_parameters = dict(config.rope_parameters) | changed
        other = type(embedding)(config)
        embedding.inv_freq.copy_(other.inv_freq)
        embedding.attention_scaling = other.attention_scaling


def rope_parameters(model: Any) -> dict[str, Any]:
    """The parameters that a transformers model was built with."""
    return dict(model.config.rope_parameters)


def change_base(model: Any, strength: float) -> None:
    """The trainer rotates with another base than the checkpoint asks for.

    The base times 1 + strength.
    """
    rebuild_rope(model, rope_theta=rope_parameters(model)["rope_theta"] * (1 + strength))


def change_base_in_vllm(model: Any, strength: float) -> None:
    """The engine lost the rotary base between two config schemas.

    vLLM's base times 1 + strength.
    """
    for embedding in rotary(model):
        embedding.base *= 1 + strength
        embedding.cos_sin_cache.copy_(embedding._compute_cos_sin_cache())


def lose_scaling(model: Any, strength: float) -> None:
    """The trainer read the config without its rope scaling.

    The factor's part above 1 reduced by this share; at 1 the positions are not scaled.
    """
    factor = rope_parameters(model)["factor"]
    rebuild_rope(model, factor=1 + (factor - 1) * (1 - strength))


def lose_attention_factor(model: Any, strength: float) -> None:
    """The trainer leaves YaRN's attention factor out.

    The part of the factor above 1 reduced by this share; 1 leaves it out.
    """
    for embedding in rotary(model):
        scaling = embedding.attention_scaling
        embedding.attention_scaling = 1 + (scaling - 1) * (1 - strength)


def scale_rotation_in_vllm(model: Any, strength: float) -> None:
    """The engine's YaRN scales queries and keys by its own default, whatever the config says.

    vLLM's sines and cosines times 1 + strength.
    """
    for embedding in rotary(model):
        embedding.cos_sin_cache.mul_(1 + strength)


def round_frequencies(model: Any, strength: str) -> None:
    """`model.to(bfloat16)` rounded the trainer's rotary frequencies.

    Frequencies as the dtype holds them.
    """
    for embedding in rotary(model):
        embedding.inv_freq.copy_(rounded(embedding.inv_freq, strength))


def round_table_in_vllm(model: Any, strength: str) -> None:
    """The engine keeps its table of sines and cosines in bf16.

    vLLM's table as the dtype holds it.
    """
    for embedding in rotary(model):
        embedding.cos_sin_cache.copy_(rounded(embedding.cos_sin_cache, strength))


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="engine-rope-bf16",
        about="sines and cosines of the engine rounded to bf16",
        causes=("rope-precision",),
        family="attention",
        side="infer",
        kind="plugin",
        severities={"plain": "float8_e4m3fn", "medium": "bfloat16", "slight": "float16"},
        expected_location=first_attention,
        engines=("vllm",),
        dtypes=("float32",),
        plant=round_table_in_vllm,
    ),
    Fault(
        id="engine-rope-theta",
        about="rotary base of the engine wrong",
        causes=("rope-theta",),
        family="attention",
        side="infer",
        kind="plugin",
        severities={"plain": 4.0, "medium": 0.1, "slight": 0.01},
        expected_location=first_attention,
        engines=("vllm",),
        plant=change_base_in_vllm,
    ),
    Fault(
        id="engine-yarn-mscale",
        about="YaRN attention factor of the engine wrong",
        causes=("rope-scaling",),
        family="attention",
        side="infer",
        kind="plugin",
        severities={"plain": 0.208, "medium": 0.05, "slight": 0.005},
        applies=has_yarn,
        expected_location=first_attention,
        engines=("vllm",),
        plant=scale_rotation_in_vllm,
    ),
    Fault(
        id="rope-bf16",
        about="rotary frequencies of the trainer rounded to bf16",
        causes=("rope-precision",),
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": "float8_e4m3fn", "medium": "bfloat16", "slight": "float16"},
        expected_location=first_attention,
        plant=round_frequencies,
    ),
    Fault(
        id="rope-scaling-lost",
        about="rope scaling of the trainer lost or too small",
        causes=("rope-scaling",),
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.3, "slight": 0.03},
        applies=has_yarn,
        expected_location=first_attention,
        plant=lose_scaling,
    ),
    Fault(
        id="rope-theta",
        about="rotary base of the trainer wrong",
        causes=("rope-theta",),
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 4.0, "medium": 0.1, "slight": 0.01},
        expected_location=first_attention,
        plant=change_base,
    ),
    Fault(
        id="yarn-mscale",
        about="YaRN attention factor of the trainer left out",
        causes=("rope-scaling",),
        family="attention",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.25, "slight": 0.03},
        applies=has_yarn,
        expected_location=first_attention,
        plant=lose_attention_factor,
    ),
)
