"""One draw, one seed, also for a generator that takes 32 bits."""

from itertools import product

import pytest
import torch

from mismatch_lab.engines.seeds import seed_of


def exponentials(seed: int) -> list[float]:
    """What vLLM draws a token with, on a CPU."""
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(5).exponential_(generator=generator).tolist()


def test_turns_of_a_row_draw_other_numbers() -> None:
    # Seeds of the three turns of row 5 in step 2 of run 1, as they were once made: they differ by
    # multiples of 2^40, and mt19937 has 32 bits of them.
    strided = [((1 * 1_000_003 + 2 + 1) + (turn << 40)) * 100_003 + 5 for turn in (1, 2, 3)]
    assert len(set(strided)) == 3
    assert exponentials(strided[0]) == exponentials(strided[1]) == exponentials(strided[2])
    drawn = [exponentials(seed_of(1, 2, turn, 5)) for turn in (1, 2, 3)]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]


def test_places_do_not_meet() -> None:
    places = list(product(range(3), range(20), range(1, 4), range(128)))
    seeds = {seed_of(*place) for place in places}
    # 23,040 of 2^32: by chance 0.06 pairs would be equal.
    assert len(seeds) == len(places)
    assert 0 <= min(seeds) <= max(seeds) < 2**32


def test_no_seed_is_made_of_a_negative_number() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        seed_of(-1, 0)
