"""Which positions are recorded in full: the same on every side, from the rows alone."""

from __future__ import annotations

import numpy as np

from mismatch_lab.captures.capture import Capture, Int64, Rows
from mismatch_lab.schema import CapturePlan


def tap_rows(rows: Rows, plan: CapturePlan) -> tuple[int, ...]:
    """The rows whose hidden states are recorded, from the second token on.

    The longest that are recorded whole, answer and all; where too few rows are so short, the
    shortest of the others, which are cut.
    """
    lengths = np.diff(rows.row_offsets)
    cut = lengths > plan.tap_tokens
    order = np.lexsort((np.where(cut, lengths, -lengths), cut))
    chosen = [int(row) for row in order if lengths[row] > 1][: plan.tap_rows]
    return tuple(sorted(chosen))


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


def tapped_rows(capture: Capture) -> tuple[int, ...]:
    """Rows of a capture whose hidden states can be fed to another program: they are there from the
    second token on, without a gap.
    """
    found = np.zeros(len(capture.probe_positions), bool)
    for array in capture.hidden.values():
        found |= np.isfinite(array).any(axis=1)
    chosen = []
    for row, (start, stop) in enumerate(capture.rows.spans()):
        inside = (capture.probe_positions > start) & (capture.probe_positions < stop)
        places = capture.probe_positions[inside] - start
        whole = len(places) and (places == np.arange(1, len(places) + 1)).all()
        if whole and found[inside].all():
            chosen.append(row)
    return tuple(chosen)


def cut_rows(rows: Rows, plan: CapturePlan) -> tuple[int, ...]:
    """Tap rows that are longer than what is recorded of them."""
    lengths = np.diff(rows.row_offsets)
    return tuple(row for row in tap_rows(rows, plan) if lengths[row] > plan.tap_tokens)


HELD_OUT_ONE_IN = 4
"""Of so many rows one is not seen by what is fitted to a capture."""


def is_held_out(row: int) -> bool:
    """Whether a fit does not see the row, so that it can be judged there."""
    return row % HELD_OUT_ONE_IN == HELD_OUT_ONE_IN - 1
