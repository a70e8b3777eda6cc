"""Defects that can be planted in the fake engine: `defect=NAME`, `defect_size=X`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mismatch_lab.captures.capture import Float32, Rows
from mismatch_lab.engines.fake_model import Change
from mismatch_lab.engines.fake_numerics import LAYERS, Float64, seed_of
from mismatch_lab.errors import InputError

TENSOR = "model.layers.1.self_attn.v_proj.weight"
"""The one that `tensor` perturbs."""

DEFECTS = {
    "attention_layer0": "the output of layer 0's attention is multiplied by 1 + size",
    "batch_variance": "the output of layer 0's experts depends, by size, on the micro-batch",
    "decode": "log-probs returned while sampling come from logits multiplied by 1 + size",
    "dropout": "in every scoring pass a share, size, of each layer's MLP output is dropped anew",
    "lm_head_scale": "the logits are multiplied by 1 + size",
    "nan_row": "the log-probs of row 0 are NaN",
    "router_bias": "size is added to the logit of expert 0 in layer 0",
    "shift": "log-probs stand one token too far to the right",
    "temperature_raw": "log-probs are of temperature 1 whatever was asked (size is not used)",
    "tensor": f"{TENSOR} is multiplied by 1 + size",
}


def check_defect(name: str) -> None:
    """Raise InputError for a defect that there is not."""
    if name and name not in DEFECTS:
        raise InputError(f"Engine fake has no defect {name!r}.", f"It has: {', '.join(DEFECTS)}.")


def module_changes(defect: str, size: float, micro_batch: int, passes: int) -> Mapping[str, Change]:
    """What the defect does to the outputs of modules, by module name.

    Args:
        defect: one of DEFECTS.
        size: how large it is.
        micro_batch: sequences per forward.
        passes: scoring passes made so far.
    """
    if defect == "attention_layer0":
        return {"model.layers.0.self_attn": lambda x: x * (1.0 + size)}
    if defect == "lm_head_scale":
        return {"lm_head": lambda x: x * (1.0 + size)}
    if defect == "router_bias":
        return {"model.layers.0.mlp.router": lambda x: x + size * np.eye(1, x.shape[-1])}
    if defect == "batch_variance":
        return {"model.layers.0.mlp.experts": lambda x: x * _noise(x, size, micro_batch)}
    if defect == "dropout" and passes:
        rng = np.random.default_rng(passes)
        return {
            f"model.layers.{layer}.mlp": lambda x: x * (rng.random(x.shape) >= size) / (1.0 - size)
            for layer in range(LAYERS)
        }
    return {}


def perturb_weights(weights: dict[str, Float64], defect: str, size: float) -> None:
    """Change the weights in place, where that is the defect."""
    if defect == "tensor":
        weights[TENSOR] *= 1.0 + size


def spoil_logp(logp: Float32, rows: Rows, defect: str) -> Float32:
    """[T] log-probs as the defect returns them; where there is none, there is none still."""
    if defect == "shift":
        moved = np.roll(logp, 1)
        moved = np.where(np.isnan(moved), np.float32(-1.0), moved)  # a row's first has no left one
        return np.where(np.isnan(logp), logp, moved)
    if defect == "nan_row":
        logp = logp.copy()
        logp[: rows.row_offsets[1]] = np.nan
    return logp


def _noise(like: Float64, size: float, micro_batch: int) -> Float64:
    rng = np.random.default_rng(seed_of("batch", micro_batch))
    return np.asarray(1.0 + size * rng.normal(size=like.shape))
