"""What an update did to each tensor: how much, and whether it is of low rank as an adapter's is."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.checkpoints.tensors import Stored, differing_names, state_key, stored_tensors

MAX_RANK = 64
"""Adapters are rarely wider."""

RANK_SHARE = 0.25
"""A change is of low rank when that is at most this share of the matrix's smaller side."""

EXACT = 1e-4
"""Relative error that arithmetic in single precision leaves in a product of two factors."""

CLEAR = 3.0
"""A change fewer times as large as rounding may be nothing but rounding: of no rank."""

ROUNDOFF = {"F64": 0.0, "F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}
"""Largest relative error of storing a value."""

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Change:
    """Of one tensor, or of several taken together."""

    relative: float
    """Frobenius norm of new minus old over that of old; inf where old is all zeros."""
    rank: int | None
    """Numerical rank of the change where that is low; None where not, and for vectors."""


def changed_tensors(before: str, after: str) -> Mapping[str, Change]:
    """Checkpoint name -> change, of every tensor that differs between two checkpoint folders; they
    are looked at once a process, as long as neither changes.

    Raises:
        InputError: a folder is missing or damaged.
    """
    return _changes(before, after, *map(state_key, (before, after)))


@lru_cache
def _changes(before: str, after: str, *_states: Hashable) -> Mapping[str, Change]:
    old, new = stored_tensors(before), stored_tensors(after)
    names = differing_names(before, after)
    return MappingProxyType({name: _change(old[name], new[name]) for name in names})


def together(changes: Iterable[Change]) -> Change:
    """One change for several tensors: the largest, of low rank only if each is."""
    found = list(changes)
    ranks = [change.rank for change in found if change.rank is not None]
    low = len(ranks) == len(found)
    return Change(max(change.relative for change in found), max(ranks) if low else None)


def low_rank(change: Float, noise: float) -> int | None:
    """Numerical rank of a matrix's change where it is low, else None.

    From a random sketch of the column space (Halko, Martinsson, Tropp 2011): what is left of the
    change outside of its leading directions must be no more than the noise.

    Args:
        change: [m, n].
        noise: Frobenius norm that rounding of the stored values gives a change.
    """
    limit = min(MAX_RANK, int(RANK_SHARE * min(change.shape)))
    size = float(np.linalg.norm(change))
    if limit < 1 or size <= CLEAR * noise or size == 0:
        return None
    columns = min(limit + 8, change.shape[1])
    directions = np.random.default_rng(0).standard_normal((change.shape[1], columns))
    basis, _ = np.linalg.qr(change @ directions.astype(np.float32))
    inside = basis.T @ change
    values = np.linalg.svd(inside, compute_uv=False).astype(np.float64)
    outside = float(np.linalg.norm(change - basis @ inside)) ** 2
    # What is left after the first r directions, for r = 0, 1, 2, …
    left = outside + np.append(np.cumsum(values[::-1] ** 2)[::-1], 0.0)
    allowed = noise**2 + (EXACT * size) ** 2
    rank = int(np.argmax(left <= allowed)) if (left <= allowed).any() else len(left)
    return rank if 1 <= rank <= limit else None


def _change(old: Stored, new: Stored) -> Change:
    if old.kind not in ROUNDOFF or new.kind not in ROUNDOFF:
        return Change(math.nan, None)  # quantised: differs, and no more can be said
    a, b = old.values(), new.values()
    size = float(np.linalg.norm(a))
    relative = float(np.linalg.norm(b - a)) / size if size else math.inf
    if a.ndim < 2:
        return Change(relative, None)
    # An error uniform within half a unit has a third of its square as variance; two are subtracted.
    noise = max(ROUNDOFF[old.kind], ROUNDOFF[new.kind]) * size * math.sqrt(2 / 3)
    slices = (b - a).reshape(-1, *a.shape[-2:])
    share = noise / math.sqrt(len(slices))
    ranks = [low_rank(part, share) for part in slices if part.any()]
    low = [rank for rank in ranks if rank is not None]
    return Change(relative, max(low) if len(low) == len(ranks) else None)
