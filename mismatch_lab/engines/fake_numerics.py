"""Arithmetic and weights of the fake engine's model."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

VOCABULARY, WIDTH, HEADS, LAYERS, EXPERTS, TOP_K = 128, 32, 2, 2, 4, 2
HEAD_SCALE = 4.0
"""Deviation of the logits: above sqrt(2 ln 128) = 3.1, so that a few tokens hold the mass."""
HALF_ULP = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Largest relative error of rounding to a dtype."""


def seed_of(*parts: object) -> int:
    """A seed from any values, the same in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


def draw_weights(model: str) -> dict[str, Float64]:
    """Weights under checkpoint names, drawn from the model's name, on the bfloat16 grid."""
    rng = np.random.default_rng(seed_of(model))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, WIDTH)}
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        shapes |= {f"{stem}.self_attn.{p}_proj.weight": (WIDTH, WIDTH) for p in "qkvo"}
        shapes[f"{stem}.mlp.router.weight"] = (EXPERTS, WIDTH)
        shapes |= {f"{stem}.mlp.experts.{p}_proj": (EXPERTS, WIDTH, WIDTH) for p in ("up", "down")}
    shapes["lm_head.weight"] = (VOCABULARY, WIDTH)
    scales = {"model.embed_tokens.weight": WIDTH**0.5, "lm_head.weight": HEAD_SCALE}
    return {
        name: to_grid(rng.normal(size=shape) * scales.get(name, 1.0) / WIDTH**0.5, "bfloat16")
        for name, shape in shapes.items()
    }


def to_grid(values: Float64, dtype: str) -> Float64:
    """Round to the nearest value (ties to even) that `dtype` can hold."""
    if dtype == "float64":
        return values
    if dtype == "bfloat16":
        bits = values.astype(np.float32).view(np.uint32)
        bits = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(
            0xFFFF0000
        )
        return bits.view(np.float32).astype(np.float64)
    return values.astype(np.float32 if dtype == "float32" else np.float16).astype(np.float64)


def softmax(logits: Float64) -> Float64:
    """Over the last axis."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def log_softmax(logits: Float64) -> Float64:
    """Over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def truncated(log_probs: Float64, top_p: float) -> Float64:
    """[V] of the smallest set of tokens that holds `top_p`, renormalised."""
    if top_p >= 1.0:
        return log_probs
    order = np.argsort(-log_probs, kind="stable")
    before = np.cumsum(np.exp(log_probs[order])) - np.exp(log_probs[order])
    kept = np.full_like(log_probs, -np.inf)
    kept[order[before < top_p]] = log_probs[order[before < top_p]]
    return log_softmax(kept)
