"""A suspect whose weights are not the checkpoint's: which cause that is, by which tensors."""

from __future__ import annotations

import re
from collections.abc import Collection

ALL = 0.9
"""Share from which on it is all of them."""

EXPLAINED_BY = {
    "attention-sinks-dropped": r"sinks$",
    "router-bias": r"(router|gate)\.(bias|e_score_correction_bias)$",
    "expert-bias": r"experts.*bias$",
    "expert-layout": r"experts.*(gate|up|w1|w3|w13)",
    "logit-scale": r"lm_head",
    "untied-head": r"lm_head|embed_tokens",
    "weight-quantisation": r".*",
    "stale-weights": r".*",
    "stale-tensor": r".*",
    "adapter-not-delivered": r".*",
}
"""Causes whose defect is in weights, and which: no further cause is needed for those."""


def unexplained(tensors: tuple[str, ...], causes: set[str]) -> tuple[str, ...]:
    """Tensors that no named cause accounts for."""
    patterns = [re.compile(EXPLAINED_BY[c]) for c in causes if c in EXPLAINED_BY]
    return tuple(name for name in tensors if not any(p.search(name) for p in patterns))


def kind_of_change(tensors: tuple[str, ...], every: Collection[str], tied: bool) -> tuple[str, str]:
    """(cause, why) for a set of tensors that differ from the checkpoint's.

    Args:
        tensors: names of those that differ.
        every: names of all tensors.
        tied: whether head and embedding are one tensor in the checkpoint.
    """
    if all(re.search(EXPLAINED_BY["router-bias"], name) for name in tensors):
        return "router-bias", "Only the biases of the routers are not the checkpoint's."
    if all(re.search(EXPLAINED_BY["expert-bias"], name) for name in tensors):
        return "expert-bias", "Only the biases of the experts are not the checkpoint's."
    if all(name.startswith("lm_head") for name in tensors):
        kind = "untied-head" if tied else "stale-tensor"
        return kind, "Only the head is not the checkpoint's."
    matrices = {name for name in every if _quantisable(name)}
    differing = set(tensors)
    if len(differing) >= ALL * len(every):
        return "stale-weights", "Nearly every tensor is not the checkpoint's."
    if matrices and len(matrices & differing) >= ALL * len(matrices) and differing <= matrices:
        return "weight-quantisation", "Every matrix, and nothing else, is not the checkpoint's."
    return "stale-tensor", "These tensors, and no others, are not the checkpoint's."


def _quantisable(name: str) -> bool:
    """Matrices of layers; embeddings, heads, routers and norms are left alone by quantisers."""
    return not re.search(r"embed|lm_head|norm|router|mlp\.gate\.|bias|sinks", name)
