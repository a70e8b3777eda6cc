"""A micro-batch of rows as model inputs: padded on the right, or packed into one sequence."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mismatch_lab.captures.capture import Rows
from mismatch_lab.schema import Packing


@dataclass(frozen=True)
class Batch:
    """Inputs of one forward, and where each row lies in its outputs."""

    ids: Tensor
    """[B, n]"""
    mask: Tensor | None
    """[B, n], None where nothing is padded."""
    positions: Tensor | None
    """[1, n] of a packed batch, None where the model counts itself."""
    places: list[tuple[int, int, int]]
    """(batch index, start, stop) of each row."""


def lay_out(rows: Rows, chosen: list[int], packing: Packing, device: torch.device) -> Batch:
    """The chosen rows as one batch."""
    sequences = [
        torch.from_numpy(rows.token_ids[a:b].astype(np.int64))
        for a, b in ((rows.row_offsets[r], rows.row_offsets[r + 1]) for r in chosen)
    ]
    lengths = [len(s) for s in sequences]
    if packing != "none" and len(chosen) > 1:
        return _packed(sequences, lengths, packing, device)
    ids = torch.zeros(len(chosen), max(lengths), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, sequence in enumerate(sequences):
        ids[i, : lengths[i]] = sequence
        mask[i, : lengths[i]] = 1
    padded = len(set(lengths)) > 1
    return Batch(
        ids.to(device),
        mask.to(device) if padded else None,
        None,
        [(i, 0, length) for i, length in enumerate(lengths)],
    )


def _packed(
    sequences: list[Tensor], lengths: list[int], packing: Packing, device: torch.device
) -> Batch:
    starts = np.cumsum([0, *lengths]).tolist()
    counts = [torch.arange(n) for n in lengths]
    positions = torch.arange(starts[-1]) if packing == "leaky" else torch.cat(counts)
    # With a mask, even one that masks nothing, transformers infers no documents from positions.
    mask = torch.ones(1, starts[-1], dtype=torch.long) if packing == "leaky_restarted" else None
    return Batch(
        torch.cat(sequences)[None].to(device),
        None if mask is None else mask.to(device),
        positions[None].to(device),
        [(0, a, b) for a, b in pairwise(starts)],
    )
