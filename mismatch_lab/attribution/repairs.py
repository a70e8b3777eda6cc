"""Repairs on the real side: one part put back as it should be, everything else left as it is.

A cause that a simulation named is confirmed when repairing that part alone makes the effect go
away on the program itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mismatch_lab.captures.capture import Capture
from mismatch_lab.schema import RunSpec, SideSpec

ATTENTION = ("*.self_attn", "*.attn", "config")
ROTARY = ("*rotary_emb*", "*.self_attn", "config")
EXPERTS = ("*.mlp", "config")

STOCK: dict[str, tuple[str, ...]] = {
    "attention-sinks-dropped": ATTENTION,
    "sliding-window": ATTENTION,
    "attention-softcap": ATTENTION,
    "rope-precision": ROTARY,
    "rope-theta": ROTARY,
    "rope-scaling": ROTARY,
    "logit-scale": ("lm_head", "config"),
    "logit-softcap": ("lm_head", "config"),
    "vocab-padding": ("lm_head", "config"),
    "lm-head-precision": ("lm_head",),
    "norm-precision": ("*norm*",),
    "router-precision": EXPERTS,
    "router-renormalisation": EXPERTS,
    "router-bias": EXPERTS,
    "expert-bias": EXPERTS,
    "expert-layout": EXPERTS,
    "routing-two-pass": EXPERTS,
}
"""cause -> modules of a transformers trainer that are put back from the checkpoint."""


@dataclass(frozen=True)
class Repair:
    """A side with one thing put right."""

    label: str
    spec: SideSpec


def repair_for(cause: str, run: RunSpec) -> Repair | None:
    """The repair of the trainer that would take a cause away; None where there is none."""
    spec = run.train
    if cause == "dropout-active":
        return Repair("dropout disabled", spec.model_copy(update={"no_dropout": True}))
    if cause not in STOCK or spec.plugin is None:
        return None
    return Repair(
        f"stock {', '.join(STOCK[cause])}", spec.model_copy(update={"stock": STOCK[cause]})
    )


def resync(side: SideSpec, tensors: tuple[str, ...]) -> Repair:
    """Some tensors loaded from the checkpoint again, after whatever changed them."""
    shown = ", ".join(tensors[:2]) + (f" and {len(tensors) - 2} more" if tensors[2:] else "")
    return Repair(f"{shown} loaded again", side.model_copy(update={"resync": tensors}))


def error_of(capture: Capture, sound: np.ndarray[Any, Any]) -> float:
    """mean |log-prob - sound log-prob| over sampled tokens."""
    sampled = capture.rows.sampled
    return float(np.nanmean(np.abs(capture.logp.astype(np.float64) - sound)[sampled]))
