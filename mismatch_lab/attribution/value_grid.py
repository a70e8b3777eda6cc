"""Log-probs that all lie on the grid of a coarse format: exact, whatever else is wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mismatch_lab.attribution.hypotheses import Hypothesis, TokenChange
from mismatch_lab.attribution.suspects import Charge
from mismatch_lab.attribution.token_changes import TOKEN_CHANGES, Float64
from mismatch_lab.captures.capture import Rows
from mismatch_lab.measures.grids import on_grid_share

NEARLY_ALL = 0.98
"""Share of values on the grid. Of float32 numbers one in thousands is, by chance."""

FEWEST = 50
"""Values that are needed to say so."""

FORMATS = (
    ("log-probs written with few decimals", TokenChange("decimals", 1.0)),
    ("log-probs written with few decimals", TokenChange("decimals", 2.0)),
    ("log-probs written with few decimals", TokenChange("decimals", 3.0)),
    ("log-probs written with few decimals", TokenChange("decimals", 4.0)),
    ("log-probs sent as bfloat16", TokenChange("through_bfloat16")),
    ("log-probs sent as float16", TokenChange("through_float16")),
)
"""The coarsest first: what lies on its grid may lie on finer ones too."""


@dataclass(frozen=True)
class ValueGrid:
    """The format that values come in."""

    hypothesis: Hypothesis
    share: float
    n: int


def value_grid(observed: Float64, rows: Rows) -> ValueGrid | None:
    """The coarsest format that holds nearly all of a suspect's sampled log-probs, if one does.

    Args:
        observed: [T] log-probs.
        rows: of the run.
    """
    values = observed[rows.sampled]
    values = values[np.isfinite(values) & (values != 0)]
    if len(values) < FEWEST or len(np.unique(values)) < FEWEST // 2:
        return None
    for label, change in FORMATS:
        rounded = TOKEN_CHANGES[change.name](values, rows, change.value)
        share = on_grid_share(values.astype(np.float32), rounded.astype(np.float32))
        if share >= NEARLY_ALL:
            hypothesis = Hypothesis("logprob-precision", label, tokens=(change,))
            return ValueGrid(hypothesis, share, len(values))
    return None


def rounded_sound(charge: Charge, grid: ValueGrid, rows: Rows) -> Charge:
    """The charge held against sound log-probs in that format."""
    sound = charge.sound
    for change in grid.hypothesis.tokens:
        sound = TOKEN_CHANGES[change.name](sound, rows, change.value)
    error = np.abs(charge.observed - sound)[rows.sampled]
    return replace(charge, sound=sound, error_nats=float(np.nanmean(error)))
