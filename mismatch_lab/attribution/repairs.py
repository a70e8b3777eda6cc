"""Repairs on the real side: one part put back as it should be, everything else left as it is; and
which cause weights that are not the checkpoint's are of.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mismatch_lab.attribution.experiments import choices, next_choice
from mismatch_lab.attribution.experiments.base import PATCHED
from mismatch_lab.attribution.suspects import Suspect
from mismatch_lab.attribution.thresholds import THRESHOLDS
from mismatch_lab.captures.capture import Capture
from mismatch_lab.schema import RunSpec, SideSpec


@dataclass(frozen=True)
class Repair:
    """A side with one thing put right."""

    label: str
    spec: SideSpec


def repair_for(cause: str, run: RunSpec) -> Repair | None:
    """What of a patched trainer is put back to take a cause away; None where there is nothing."""
    put_back = [c for c in choices(run, "train") if c.prepared.likely == PATCHED]
    choice = next_choice(put_back, {cause})
    return None if choice is None else Repair(choice.experiment.changes, choice.prepared.trial.spec)


def resync(side: SideSpec, tensors: tuple[str, ...]) -> Repair:
    """Some tensors loaded from the checkpoint again, after whatever changed them."""
    shown = ", ".join(tensors[:2]) + (f" and {len(tensors) - 2} more" if tensors[2:] else "")
    return Repair(f"{shown} loaded again", side.model_copy(update={"resync": tensors}))


def error_of(capture: Capture, expected: np.ndarray[Any, Any]) -> float:
    """mean |log-prob - sound log-prob| over sampled tokens."""
    sampled = capture.rows.sampled
    return float(np.nanmean(np.abs(capture.logp.astype(np.float64) - expected)[sampled]))


def repaired(suspect: Suspect, capture: Capture, left_nats: float) -> Suspect:
    """The suspect as it is with a repair, and the error that this leaves."""
    return replace(suspect, observed=capture.logp.astype(np.float64), error_nats=left_nats)


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
    if len(differing) >= THRESHOLDS.all_tensors_share * len(every):
        return "stale-weights", "Nearly every tensor is not the checkpoint's."
    if (
        matrices
        and len(matrices & differing) >= THRESHOLDS.all_tensors_share * len(matrices)
        and differing <= matrices
    ):
        return "weight-quantisation", "Every matrix, and nothing else, is not the checkpoint's."
    return "stale-tensor", "These tensors, and no others, are not the checkpoint's."


def _quantisable(name: str) -> bool:
    """Matrices of layers; embeddings, heads, routers and norms are left alone by quantisers."""
    return not re.search(r"embed|lm_head|norm|router|mlp\.gate\.|bias|sinks", name)
