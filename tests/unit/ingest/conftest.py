"""Makes `dump_writers` importable, and two rows to write."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from dump_writers import Written


def row(ids: list[int], sampled: str, infer: list[float], train: list[float]) -> Written:
    """`sampled` has a 1 where a token was; log-probs are of these alone."""
    marks = [mark == "1" for mark in sampled]
    arrays = []
    for given in (infer, train):
        values = np.full(len(ids), np.nan, np.float32)
        values[np.flatnonzero(marks)] = given
        arrays.append(values)
    return Written(ids, marks, *arrays)


@pytest.fixture
def rows() -> list[Written]:
    """A row of two turns, with a tool's token 9 between them, and a short one."""
    return [
        row([5, 6, 7, 8, 9, 4], "001101", [-1.0, -2.0, -0.5], [-1.25, -2.5, -0.75]),
        row([5, 3, 2], "011", [-3.0, -4.0], [-3.5, -4.125]),
    ]
