"""Which numbers a coarse format can hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


def to_bfloat16(values: NDArray[np.floating]) -> Float64:
    """Rounded to the nearest bfloat16, ties to even; infinities and NaN stay.

    >>> to_bfloat16(np.array([1.003]))
    array([1.])
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32)
    return np.where(np.isfinite(values), rounded.view(np.float32), values).astype(np.float64)


def to_float16(values: NDArray[np.floating]) -> Float64:
    """Rounded to the nearest float16."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float64)


def on_grid_share(values: NDArray[np.floating], rounded: NDArray[np.floating]) -> float:
    """Share of finite non-zero values that rounding leaves as they are; NaN without any.

    Of float32 numbers about one in 65 536 lies on the bfloat16 grid by chance.
    """
    counted = np.isfinite(values) & (values != 0)
    if not counted.any():
        return float("nan")
    return float(np.mean(values[counted] == rounded[counted].astype(values.dtype)))
