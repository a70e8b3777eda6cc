"""Which query attends to which keys: documents one after another, causal, with a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Documents one after another along the token axis of q [T, H, D] and of k, v [S, K, D].

    The last query of a document stands at its last key: a document with fewer queries than keys
    is one whose beginning is in a cache.
    """

    cu_q: Tensor
    """[N + 1] int32: where each document's queries begin, and T."""
    cu_k: Tensor
    """[N + 1] int32: where each document's keys begin, and S."""
    max_q: int
    """Queries of the longest document."""
    max_k: int
    """Keys of the longest document."""

    def documents(self) -> list[tuple[slice, slice]]:
        """(queries, keys) of each document that has queries."""
        starts = zip(pairwise(self.cu_q.tolist()), pairwise(self.cu_k.tolist()), strict=True)
        return [(slice(*q), slice(*k)) for q, k in starts if q[1] > q[0]]


@dataclass(frozen=True)
class Spec:
    """A layout, and how its documents attend: always causally."""

    layout: Layout
    scale: float
    """Factor of q·k."""
    window: int | None = None
    """Keys a query sees at most, its own among them; None for all before it."""


def layout_of(
    q_lengths: Sequence[int], k_lengths: Sequence[int] | None = None, device: str = "cpu"
) -> Layout:
    """Layout of documents of these lengths; without `k_lengths`, each attends to itself."""
    k_lengths = q_lengths if k_lengths is None else k_lengths
    return Layout(
        _starts(q_lengths, device), _starts(k_lengths, device), max(q_lengths), max(k_lengths)
    )


def _starts(lengths: Sequence[int], device: str) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def visible(rows: range, keys: range, window: int | None, device: torch.device) -> Tensor:
    """[len(rows), len(keys)] bool: does the query at a key's position see the key?

    Args:
        rows: positions of the queries, counted as the keys are.
        keys: positions of the keys.
        window: as in `Spec`.
        device: where the mask is made.
    """
    query = torch.arange(rows.start, rows.stop, device=device)[:, None]
    key = torch.arange(keys.start, keys.stop, device=device)[None]
    seen = key <= query
    return seen if window is None else seen & (key > query - window)
