"""Seeds of random draws that have nothing to do with each other."""

from __future__ import annotations

import numpy as np


def seed_of(*place: int) -> int:
    """32 bits from numbers that say which draw it is: one place, one seed.

    A sum with strides will not do. torch's generator on a CPU (mt19937) takes the lower 32 bits of
    what it is given, so that numbers which differ above them are one seed; and with one seed for
    all, vLLM hands every row the same random numbers.

    Args:
        place: such as (seed of the run, step, turn, row), each from 0 to 2^32 - 1. Places that are
            told apart have the same length: zeros at the end do not count.

    Raises:
        ValueError: a number is negative.
    """
    return int(np.random.SeedSequence(place).generate_state(1)[0])
