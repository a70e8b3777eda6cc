"""Captures made by hand: every row is one prompt token, then the sampled ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mismatch_lab.captures.capture import Capture, Rows

NAN = float("nan")


def capture(*answers: list[float]) -> Capture:
    """Log-probs of the sampled tokens of each row; token ids are 0, 1, 2, … throughout."""
    lengths = [1 + len(answer) for answer in answers]
    ids = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
    rows = Rows.build(
        [part.tolist() for part in ids],
        [1] * len(answers),
        [[False] + [True] * len(answer) for answer in answers],
    )
    logp = [value for answer in answers for value in (NAN, *answer)]
    return Capture(rows, np.array(logp, np.float32))


def probed(base: Capture, positions: list[int], probabilities: list[list[float]]) -> Capture:
    """With the distributions at these positions; probabilities of 0 become -inf."""
    with np.errstate(divide="ignore"):
        full = np.log(np.array(probabilities)).astype(np.float32)
    return replace(base, probe_positions=np.array(positions), probe_logp=full)
