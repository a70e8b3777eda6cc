"""Array types, length checks and per-row sums shared by every measure.

Captures store ragged rows flattened: one value per token, and `row_ids` saying which sequence the
token belongs to, ascending. Everything here works on that layout.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
AnyFloats = npt.NDArray[np.floating[Any]]
AnyInts = npt.NDArray[np.integer[Any]]

_CHUNK_TOKENS = 1 << 16  # temporaries of half a MiB each


def check_lengths(**arrays: npt.NDArray[Any]) -> None:
    """Refuse arrays whose first axes differ; numpy would broadcast [3] against [1] silently.

    Raises:
        ValueError: the lengths differ; the message names each array with its length.
    """
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(array)}" for name, array in arrays.items())
        raise ValueError(f"arrays that must pair up differ in length: {lengths}")


def check_shapes(**arrays: npt.NDArray[Any]) -> None:
    """Refuse arrays of different shapes.

    Raises:
        ValueError: the shapes differ; the message names each array with its shape.
    """
    if len({array.shape for array in arrays.values()}) > 1:
        shapes = ", ".join(f"{name} is {list(array.shape)}" for name, array in arrays.items())
        raise ValueError(f"arrays that must pair up differ in shape: {shapes}")


def row_starts(row_ids: AnyInts) -> IntArray:
    """Index of each row's first token.

    Args:
        row_ids: int [N], ascending; gaps are allowed.

    Returns:
        int64 [R], one entry for each distinct row id.

    Raises:
        ValueError: the ids are not one-dimensional or not ascending.
    """
    if row_ids.ndim != 1:
        raise ValueError(f"row_ids must be [N], got shape {list(row_ids.shape)}")
    if row_ids.size == 0:
        return np.empty(0, dtype=np.int64)
    descents = row_ids[1:] < row_ids[:-1]
    if descents.any():
        at = int(np.argmax(descents))
        raise ValueError(
            f"row_ids must ascend: index {at} is {row_ids[at]}, index {at + 1} is {row_ids[at + 1]}"
        )
    changes = np.flatnonzero(row_ids[1:] != row_ids[:-1]) + 1
    return np.concatenate([np.zeros(1, dtype=np.int64), changes])


def row_chunks(starts: IntArray, n_tokens: int) -> Iterator[tuple[slice, slice]]:
    """Cut the tokens into chunks whose temporaries stay in cache.

    Yields:
        (tokens, rows): a slice of the N tokens, and the slice of the R rows it touches. A row may
        be touched by several chunks, so what is summed by row must be added up.
    """
    for begin in range(0, n_tokens, _CHUNK_TOKENS):
        end = min(begin + _CHUNK_TOKENS, n_tokens)
        first = int(np.searchsorted(starts, begin, side="right")) - 1
        last = int(np.searchsorted(starts, end, side="left"))
        yield slice(begin, end), slice(first, last)


def row_indices(starts: IntArray, tokens: slice) -> IntArray:
    """For a chunk of tokens and the starts of its rows: each token's row, counted from 0."""
    borders = np.append(np.maximum(starts, tokens.start), tokens.stop)
    return np.repeat(np.arange(len(starts)), np.diff(borders))


def sum_by_row(values: npt.NDArray[Any], starts: IntArray) -> FloatArray:
    """Sum over the tokens of each row: values [N], starts [R] -> float64 [R]."""
    if len(starts) == 0:
        return np.zeros(0)
    sums: FloatArray = np.add.reduceat(values, starts, dtype=np.float64)
    return sums


def position_chunks(n_positions: int, width: int) -> Iterator[slice]:
    """Slices over the positions of a [P, width] array, so that float64 copies stay near 32 MiB."""
    step = max(1, (1 << 22) // max(1, width))
    for begin in range(0, n_positions, step):
        yield slice(begin, begin + step)


def check_matrix_rows(row_ids: AnyInts, **arrays: npt.NDArray[Any]) -> None:
    """Refuse arrays that are not [P, ...] of one shape with a row id for each position.

    Raises:
        ValueError: shapes differ, an array is not two-dimensional, or the lengths do not pair up.
    """
    check_shapes(**arrays)
    name, first = next(iter(arrays.items()))
    if first.ndim != 2:
        raise ValueError(f"{name} must have two axes, got shape {list(first.shape)}")
    check_lengths(row_ids=row_ids, **arrays)
