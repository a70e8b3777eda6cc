"""Which weight tensors differ between the sides, from fingerprints that survive fusing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from mismatch_lab.captures.names import canonical_name

Fingerprints = Mapping[str, Mapping[str, float]]

_FUSED = (
    (re.compile(r"\.(q|k|v)_proj\.(weight|bias)$"), r".qkv_proj.\2"),
    (re.compile(r"\.experts\.gate_up_proj$"), ".experts.w13_weight"),
    (re.compile(r"\.experts\.gate_up_proj_bias$"), ".experts.w13_bias"),
    (re.compile(r"\.experts\.down_proj$"), ".experts.w2_weight"),
    (re.compile(r"\.experts\.down_proj_bias$"), ".experts.w2_bias"),
    (re.compile(r"\.(gate|up)_proj\.(weight|bias)$"), r".gate_up_proj.\2"),
    (re.compile(r"\.experts\.routed_experts\."), ".experts."),
)

RELATIVE_TOLERANCE = {True: 1e-6, False: 1e-2}
"""By whether both sides hold the weights in the same dtype."""


def differing_tensors(
    infer: Fingerprints, train: Fingerprints, same_dtype: bool, tolerance: float | None = None
) -> list[str]:
    """Names (fused where a side fuses) of tensors whose values differ; empty if none compared."""
    a, b = fused(infer), fused(train)
    tolerance = RELATIVE_TOLERANCE[same_dtype] if tolerance is None else tolerance
    return sorted(name for name in a.keys() & b.keys() if _differs(a[name], b[name], tolerance))


def tensors_unlike(
    suspect: Fingerprints, reference: Fingerprints, same_dtype: bool
) -> tuple[str, ...]:
    """Checkpoint names of the tensors whose values are not the reference's.

    Where the suspect fuses tensors (q, k and v in one), all of those in the fused one are named.
    """
    fused = set(differing_tensors(suspect, reference, same_dtype))
    unfused = {
        name
        for name in reference
        if name in suspect
        and _differs(suspect[name], reference[name], RELATIVE_TOLERANCE[same_dtype])
    }
    return tuple(
        sorted(
            name
            for name in reference
            if _canonical(name) in fused and (name not in suspect or name in unfused)
        )
    )


def compared_tensors(infer: Fingerprints, train: Fingerprints) -> int:
    """How many tensors, fused ones once, both sides have."""
    return len(fused(infer).keys() & fused(train).keys())


def _differs(a: Mapping[str, float], b: Mapping[str, float], tolerance: float) -> bool:
    scale = max(a["sum_abs"], b["sum_abs"], 1e-300)
    return any(
        not math.isclose(
            a[key],
            b[key],
            rel_tol=0,
            abs_tol=tolerance * (scale if key != "sum_sq" else max(a[key], b[key])),
        )
        for key in ("sum", "sum_abs", "sum_sq")
    )


def fused(fingerprints: Fingerprints) -> dict[str, dict[str, float]]:
    """By names that both sides share; tensors that a side fuses are added up."""
    total: dict[str, dict[str, float]] = {}
    for name, moments in fingerprints.items():
        key = _canonical(name)
        into = total.setdefault(key, dict.fromkeys(moments, 0.0))
        for field, value in moments.items():
            into[field] += value
    return total


def _canonical(name: str) -> str:
    module, _, tensor = name.rpartition(".")
    name = f"{canonical_name(module)}.{tensor}" if module else name
    for pattern, replacement in _FUSED:
        name = pattern.sub(replacement, name)
    return name
