"""Which positions are recorded in full: the same on every side, from the rows alone."""

from __future__ import annotations

import numpy as np

from mismatch_lab.captures.capture import Int64, Rows
from mismatch_lab.schema import CapturePlan


def tap_rows(rows: Rows, plan: CapturePlan) -> tuple[int, ...]:
    """The rows whose hidden states are recorded from the second token on: the longest ones."""
    lengths = np.diff(rows.row_offsets)
    order = np.argsort(-lengths, kind="stable")[: plan.tap_rows]
    return tuple(sorted(int(row) for row in order if lengths[row] > 1))


def probe_positions(rows: Rows, plan: CapturePlan, taps: bool) -> Int64:
    """[P] flat token indices, ascending: spread over the sampled tokens, and tap rows whole."""
    sampled = np.flatnonzero(rows.sampled)
    count = min(plan.probe_positions, len(sampled))
    spread = (
        sampled[np.linspace(0, len(sampled) - 1, count).astype(np.int64)] if count else sampled[:0]
    )
    chosen = [spread]
    for row in tap_rows(rows, plan) if taps else ():
        start, stop = int(rows.row_offsets[row]), int(rows.row_offsets[row + 1])
        stop = min(stop, start + plan.tap_tokens)
        # In a tap row no gap and nothing beyond: a replay feeds exactly the probed prefix.
        chosen = [part[(part < start) | (part >= rows.row_offsets[row + 1])] for part in chosen]
        chosen.append(np.arange(start + 1, stop))
    return np.unique(np.concatenate(chosen)).astype(np.int64)
