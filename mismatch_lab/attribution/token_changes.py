"""What defects between a program and its consumer do to the log-probs of given tokens.

Each takes the sound log-probs [T] of whole rows and returns those that arrive. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.capture import Rows
from mismatch_lab.measures.grids import to_bfloat16, to_float16

Float64 = NDArray[np.float64]


def shift(logp: Float64, rows: Rows, value: float) -> Float64:
    """Each token carries the log-prob of the token `value` places later; NaN beyond the row."""
    moved = np.full_like(logp, np.nan)
    by = int(value)
    for start, stop in rows.spans():
        inside = np.arange(start, stop) + by
        valid = (inside >= start) & (inside < stop)
        moved[start:stop][valid] = logp[inside[valid]]
    return moved


def through_bfloat16(logp: Float64, _rows: Rows, _value: float) -> Float64:
    """Sent or stored as bfloat16."""
    return to_bfloat16(logp)


def through_float16(logp: Float64, _rows: Rows, _value: float) -> Float64:
    """Sent or stored as float16."""
    return to_float16(logp)


def decimals(logp: Float64, _rows: Rows, value: float) -> Float64:
    """Written with so many decimals."""
    return np.round(logp, int(value))


def terminal_constant(logp: Float64, rows: Rows, value: float) -> Float64:
    """The last token of each row carries a constant."""
    changed = logp.copy()
    changed[rows.row_offsets[1:] - 1] = value
    return changed


TOKEN_CHANGES: dict[str, Callable[[Float64, Rows, float], Float64]] = {
    "shift": shift,
    "through_bfloat16": through_bfloat16,
    "through_float16": through_float16,
    "decimals": decimals,
    "terminal_constant": terminal_constant,
}
"""name -> function; another one is one function and one row."""
