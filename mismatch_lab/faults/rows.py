"""Which rows and tokens of a capture a piece of glue gets wrong."""

from __future__ import annotations

import numpy as np

from mismatch_lab.captures.capture import Capture, Int64


def scored(capture: Capture, row: int) -> Int64:
    """Flat indices of a row's sampled tokens with a log-prob, ascending."""
    start, stop = capture.rows.row_offsets[row : row + 2]
    good = capture.rows.sampled[start:stop] & ~np.isnan(capture.logp[start:stop])
    return np.flatnonzero(good) + int(start)


def some_rows(capture: Capture, share: float) -> list[int]:
    """`share` of the rows, at least one, spread evenly: those of one worker among several."""
    count = max(1, round(share * capture.rows.n_rows))
    return [int(r) for r in np.linspace(0, capture.rows.n_rows - 1, count).round()]


def some_tokens(capture: Capture, share: float, seed: int = 0) -> Int64:
    """Flat indices of `share` of the sampled tokens, drawn at random, at least one."""
    tokens = np.concatenate([scored(capture, row) for row in range(capture.rows.n_rows)])
    count = max(1, round(share * len(tokens)))
    return np.sort(np.random.default_rng(seed).choice(tokens, count, replace=False))
