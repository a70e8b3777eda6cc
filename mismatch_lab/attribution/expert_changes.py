"""Tokens after a change of experts: a changed choice reaches every later token of its row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.capture import Rows


def changed_sets(a: NDArray[np.int16], b: NDArray[np.int16]) -> NDArray[np.bool_]:
    """[T, L] whether two sides chose different sets of experts; their order does not count.

    Args:
        a: [T, L, K] choices of one side.
        b: [T, L, K'] choices of the other; sets of different sizes differ.
    """
    if a.shape[-1] != b.shape[-1]:
        return np.ones(a.shape[:-1], bool)
    return np.asarray((np.sort(a, axis=-1) != np.sort(b, axis=-1)).any(axis=-1))


def after_change(changed: NDArray[np.bool_], rows: Rows) -> NDArray[np.bool_]:
    """[T] whether a choice changed at the input before this token or earlier in its row.

    Args:
        changed: [T] whether any layer chose otherwise where token t is the input.
        rows: the sequences.
    """
    touched = np.zeros(len(changed), bool)
    for start, stop in rows.spans():
        so_far = np.logical_or.accumulate(changed[start:stop])
        touched[start + 1 : stop] = so_far[:-1]  # a log-prob comes from the input before it
    return touched


def finite_mean(values: NDArray[np.float64]) -> float:
    """Mean of the finite values; NaN without any."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
