"""Which sequences lay in one packed row, and in which order.

A trainer that packs puts several sequences into one row of its batch. [R, 2] says of each sequence
the number of its packed row and its place there, 0 first; both are `UNKNOWN_PACK` where nobody
says. Places are the trainer's own: one that is missing is a sequence that was not recorded, and
what lay behind it cannot be put together again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mismatch_lab.errors import CaptureError

Int64 = NDArray[np.int64]

UNKNOWN_PACK = -1

PACK_TOKENS = 8192
"""Of a packed row that the reference reads: its plain attention holds 16 heads x tokens² in
float32, 4 GiB of them. Sequences that lay behind these are not simulated."""


def packs_from_arrays(
    packed_rows: ArrayLike, packed_places: ArrayLike | None, n_rows: int
) -> Int64:
    """[R, 2] of what a loop knows.

    Args:
        packed_rows: int [R], the packed row that each sequence lay in; -1 where it is not known.
        packed_places: int [R], places in it; None is the order in which the sequences are given.
        n_rows: R.

    Raises:
        CaptureError: other shapes, numbers that are not whole, or two sequences in one place.
    """
    rows = _whole("packed_rows", packed_rows, n_rows)
    places = in_order(rows)
    if packed_places is not None:
        places = _whole("packed_places", packed_places, n_rows)
    packs = np.stack([rows, np.where(rows < 0, UNKNOWN_PACK, places)], axis=1)
    check_packs(packs, "packed_rows")
    return packs


def _whole(name: str, given: ArrayLike, n_rows: int) -> Int64:
    values = np.asarray(given)
    if values.shape != (n_rows,):
        raise CaptureError(f"{name} has shape {list(values.shape)}, for {n_rows} rows.")
    if values.dtype.kind not in "iu" and not np.array_equal(values, np.round(values)):
        raise CaptureError(f"{name} holds numbers that are not whole.")
    return values.astype(np.int64)


def in_order(packed_rows: Int64) -> Int64:
    """[R] places where sequences of a packed row are given in their order."""
    order = np.argsort(packed_rows, kind="stable")
    starts = np.searchsorted(packed_rows[order], packed_rows[order])
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order)) - starts
    return places


def check_packs(packs: Int64, where: str) -> None:
    """Raise CaptureError where two sequences have one place, or a place is none."""
    known = packs[packs[:, 0] >= 0]
    if len(np.unique(known, axis=0)) < len(known):
        raise CaptureError(f"{where}: two sequences lie in one place of a packed row.")
    if (known[:, 1] < 0).any():
        raise CaptureError(f"{where}: a place in a packed row is below 0.")


def grouped(packs: Int64) -> list[Int64]:
    """Sequences by packed row, each in its order; one of which it is not known is by itself."""
    known = np.flatnonzero(packs[:, 0] >= 0)
    order = known[np.lexsort((packs[known, 1], packs[known, 0]))]
    borders = np.flatnonzero(np.diff(packs[order, 0])) + 1
    alone = np.flatnonzero(packs[:, 0] < 0)
    return [*(part for part in np.split(order, borders) if len(part)), *alone[:, None]]


def rebuilt(
    packs: Int64, lengths: Int64, most_tokens: int = PACK_TOKENS
) -> tuple[tuple[int, ...], ...]:
    """Packed rows as they can be put together again: up to the first place that is missing.

    Args:
        packs: [R, 2].
        lengths: [R] tokens of each sequence.
        most_tokens: of one packed row; its first sequence is there in any case.
    """
    found = []
    for rows in grouped(packs):
        here = packs[rows, 1] == np.arange(len(rows))
        here[1:] &= np.cumsum(lengths[rows])[1:] <= most_tokens
        count = int(np.logical_and.accumulate(here).sum())
        if count:
            found.append(tuple(rows[:count].tolist()))
    return tuple(found)


def shares_rows(packs: Int64 | None) -> bool:
    """Whether some sequence is known to have lain behind another."""
    return packs is not None and bool((packs[:, 1] > 0).any())


def drawn(packs: Int64 | None, n_rows: int, count: int, seed: int) -> Int64:
    """[K] ascending: so many rows at most, drawn by the seed; whole packed rows, if there are any.

    Args:
        packs: [R, 2]; None where nothing is known.
        n_rows: R.
        count: rows wanted. Of a packed row with more sequences the first so many are taken.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    if not shares_rows(packs):
        return np.sort(rng.choice(n_rows, min(count, n_rows), replace=False))
    assert packs is not None
    groups, taken, left = grouped(packs), [], count
    for at in rng.permutation(len(groups)):
        if len(groups[at]) <= left or left == count:
            taken.append(groups[at][:left])
            left -= len(taken[-1])
    return np.sort(np.concatenate(taken))
