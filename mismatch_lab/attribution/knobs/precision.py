"""The knob that both sides have: the same program in float32."""

from __future__ import annotations

from mismatch_lab.attribution.knobs.base import DEFAULT, Trial, Turn
from mismatch_lab.schema import SideSpec

PRECISION = frozenset(
    {
        "lm-head-precision", "logprob-precision", "router-precision", "norm-precision",
        "rope-precision", "numerics-floor", "routing-flips", "routing-two-pass", "batch-variance",
    }
)  # fmt: skip
"""Causes that are rounding, or that rounding sets off."""

SLOWER = 2.0
"""Twice the bytes; where half precision has units of its own, more."""

OF_DTYPE = ("param_dtype", "master_dtype")
"""Options of a trainer that would hold on to another dtype."""


def in_float32(side: SideSpec) -> Turn | None:
    """None for a side that is in float32 already."""
    if side.dtype == "float32":
        return None
    args = {name: value for name, value in side.args.items() if name not in OF_DTYPE}
    wide = side.model_copy(update={"dtype": "float32", "args": args})
    return Turn(Trial(wide), DEFAULT, SLOWER)
