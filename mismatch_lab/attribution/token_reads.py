"""Did a side read the tokens that it was given? Its first layer's input tells, by position.

A token read as another leaves a wrong embedding at its own position and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.capture import Capture

FIRST_INPUT = "model.layers.0:in"

WRONG = 0.1
"""Relative error of an embedding that is another token's: unrelated vectors are 1.4 apart, and
rounding stays below 0.01."""

MOST = 0.9
"""If nearly every position is wrong, the embedding is, not what was read."""


@dataclass(frozen=True)
class MisreadTokens:
    """Positions of tapped rows at which a side read another token."""

    flat: NDArray[np.int64]
    """[M] flat token indices."""
    in_prompt: float
    """Share of them that are of the prompt."""
    seen: int
    """Positions that were looked at."""


def misread_tokens(side: Capture, reference: Capture) -> MisreadTokens | None:
    """None where hidden states were not recorded, or every token was read as it is."""
    a, b = side.hidden.get(FIRST_INPUT), reference.hidden.get(FIRST_INPUT)
    if a is None or b is None or a.shape != b.shape:
        return None
    size = np.linalg.norm(b.astype(np.float64), axis=1)
    error = np.linalg.norm(a.astype(np.float64) - b, axis=1) / np.maximum(size, 1e-30)
    seen = np.isfinite(error)
    wrong = seen & (error > WRONG)
    if not wrong.any() or wrong.sum() > MOST * seen.sum():
        return None
    # A hidden state at probe p is of the forward position one token earlier.
    flat = side.probe_positions[wrong] - 1
    rows = side.rows
    row = rows.row_ids()[flat]
    in_prompt = flat - rows.row_offsets[row] < rows.prompt_lengths[row]
    return MisreadTokens(flat, float(in_prompt.mean()), int(seen.sum()))
