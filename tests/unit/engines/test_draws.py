"""What is kept of distributions: by hand on four tokens, and against whole ones on many."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mismatch_lab.captures.capture import Rows
from mismatch_lab.engines.assemble import RowDraws
from mismatch_lab.engines.draws import DrawsRecorder
from mismatch_lab.measures.suppositions import (
    EXPECTED,
    FAMILIES,
    LARGEST,
    LEAK,
    OBSERVED,
    VARIANCE,
)

CPU = torch.device("cpu")


def recorded(
    rows: Rows, logits: NDArray[np.float64], row: int = 0, temperature: float = 1.0
) -> RowDraws:
    """Of logits that are over the temperature already, as engines have them."""
    return DrawsRecorder(rows, row, temperature, CPU).record_of(torch.from_numpy(logits))


def one_answer(ids: list[int], prompt: int = 1) -> Rows:
    return Rows.build([ids], [prompt], [[False] * prompt + [True] * (len(ids) - prompt)])


def gain(found: RowDraws, family: str, value: float, kind: int = OBSERVED) -> float:
    return float(found.gains[family][kind, FAMILIES[family].values.index(value)])


FALLING = np.log([0.5, 0.25, 0.15, 0.1])
INSIDE = {held: log((1 - LEAK) / held + LEAK) for held in (0.5, 0.75, 0.9)}
OUTSIDE = log(LEAK)


def test_entropy_and_variance_of_each_sampled_token() -> None:
    found = recorded(one_answer([0, 1, 2]), np.stack([FALLING, np.log([0.25] * 4)]))
    p = np.exp(FALLING)
    entropy = -(p * FALLING).sum()
    assert np.isnan(found.entropy[0])
    assert np.isnan(found.variance[0])
    assert found.entropy[1:] == pytest.approx([entropy, log(4)], rel=1e-5)
    assert found.variance[1:] == pytest.approx(
        [(p * (FALLING + entropy) ** 2).sum(), 0.0], abs=1e-5
    )


def test_edges_by_hand() -> None:
    # Drawn: token 1, with a half before it.
    found = recorded(one_answer([0, 1]), FALLING[None])
    expected = {
        ("top_k", 1): OUTSIDE,
        ("top_k", 2): INSIDE[0.75],
        ("top_k", 3): INSIDE[0.9],
        ("top_k", 4): 0.0,
        ("top_p", 0.5): OUTSIDE,  # the first token reaches it
        ("top_p", 0.51): INSIDE[0.75],
        ("top_p", 0.76): INSIDE[0.9],
        ("top_p", 0.95): 0.0,
        ("min_p", 0.52): OUTSIDE,  # a quarter is half of a half
        ("min_p", 0.48): INSIDE[0.75],
        ("min_p", 0.28): INSIDE[0.9],
        ("min_p", 0.1): 0.0,
    }
    for (family, value), nats in expected.items():
        assert gain(found, family, value) == pytest.approx(nats, abs=1e-6), (family, value)
    # If tokens came from the first two, and one of a thousand from all: 0.999 + 0.00075 of them
    # would gain INSIDE, the others lose.
    share = 1 - LEAK + LEAK * 0.75
    mean = share * INSIDE[0.75] + (1 - share) * OUTSIDE
    assert gain(found, "top_k", 2, EXPECTED) == pytest.approx(mean)
    spread = share * (1 - share) * (INSIDE[0.75] - OUTSIDE) ** 2
    assert gain(found, "top_k", 2, VARIANCE) == pytest.approx(spread)


def test_temperatures_by_hand() -> None:
    # At T = 1/2 probabilities are squared: 25, 6.25, 2.25, 1 hundredths, of 34.5 together.
    found = recorded(one_answer([0, 1, 0]), np.stack([FALLING, FALLING]))
    q = np.array([25, 6.25, 2.25, 1]) / 34.5
    drawn = log(6.25 / 34.5 / 0.25) + log(25 / 34.5 / 0.5)
    assert gain(found, "temperature", 0.5) == pytest.approx(drawn, abs=1e-5)
    gains = np.log(q) - FALLING
    mean = float((q * gains).sum())
    assert gain(found, "temperature", 0.5, EXPECTED) == pytest.approx(2 * mean, abs=1e-5)
    assert gain(found, "temperature", 0.5, VARIANCE) == pytest.approx(
        2 * float((q * (gains - mean) ** 2).sum()), abs=1e-5
    )


def test_penalties_by_hand() -> None:
    # Prompt 2, answer 1 1 3: token 2 was seen and not generated. The last token, 3, is drawn with
    # token 1 generated twice; earlier positions change nothing here, as their logits are sure.
    sure = np.array([-1e3, 0.0, -1e3, -1e3])
    logits = np.array([2.0, 1.0, -1.0, 0.5])
    found = recorded(one_answer([2, 1, 1, 3]), np.stack([sure, sure, logits]))
    log_z = log(np.exp(logits).sum())

    def expected(moved: list[float]) -> float:
        return float(moved[3] - logits[3] - log(np.exp(moved).sum()) + log_z)

    assert gain(found, "presence_penalty", 0.5) == pytest.approx(
        expected([2.0, 0.5, -1.0, 0.5]), abs=1e-5
    )
    assert gain(found, "frequency_penalty", 0.5) == pytest.approx(
        expected([2.0, 0.0, -1.0, 0.5]), abs=1e-5
    )
    # Seen are 1 and 2: 1 / 2 and -1 * 2.
    assert gain(found, "repetition_penalty", 2.0) == pytest.approx(
        expected([2.0, 0.5, -2.0, 0.5]), abs=1e-5
    )
    halved = recorded(one_answer([2, 1, 1, 3]), np.stack([sure, sure, logits]), temperature=2.0)
    # These are logits over a temperature of 2: a penalty of 1 takes half.
    assert gain(halved, "presence_penalty", 1.0) == pytest.approx(
        gain(found, "presence_penalty", 0.5), abs=1e-5
    )


def test_penalties_of_a_later_turn_count_its_own_answer() -> None:
    # Turns [2 3], user [0], [1 1]: vLLM's request for the second answer has all before it as its
    # prompt. At its last token presence and frequency know token 1 once, repetition 1, 2, 3, 0.
    rows = Rows.build([[0, 2, 3, 0, 1, 1]], [1], [[False, True, True, False, True, True]])
    sure = {t: np.where(np.arange(4) == t, 0.0, -1e3) for t in range(4)}
    logits = np.array([2.0, 1.0, -1.0, 0.5])
    given = np.stack([sure[2], sure[3], logits, sure[1], logits])
    found = recorded(rows, given)
    log_z = log(np.exp(logits).sum())
    for family in ("presence_penalty", "frequency_penalty"):
        moved = [2.0, 0.5, -1.0, 0.5]
        assert gain(found, family, 0.5) == pytest.approx(
            moved[1] - logits[1] - log(np.exp(moved).sum()) + log_z, abs=1e-5
        )
    moved = [1.0, 0.5, -2.0, 0.25]
    assert gain(found, "repetition_penalty", 2.0) == pytest.approx(
        moved[1] - logits[1] - log(np.exp(moved).sum()) + log_z, abs=1e-5
    )


def test_expected_counts_leave_out_what_is_rare() -> None:
    p = np.array([0.7, 0.296, 0.004])
    found = recorded(one_answer([0, 1, 1]), np.log(np.stack([p, p])))
    assert found.vocabulary == 3
    assert found.expected_ids.tolist() == [0, 1]  # token 2 was expected 0.008 times
    assert found.expected_counts == pytest.approx([1.4, 0.592], rel=1e-5)


def test_a_token_of_probability_zero_and_a_prompt_are_left_out() -> None:
    banned = np.array([0.0, -np.inf, 0.0, 0.0])
    found = recorded(one_answer([0, 0, 1], prompt=2), np.stack([FALLING, banned]))
    assert np.isnan(found.entropy).all()
    assert not any(gains.any() for gains in found.gains.values())
    assert found.vocabulary == 0
    kept = recorded(one_answer([0, 2]), banned[None])
    assert kept.entropy[1] == pytest.approx(log(3), rel=1e-5)
    assert all(np.isfinite(gains).all() for gains in kept.gains.values())


def test_rows_that_come_in_pieces_say_the_same() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(3 * rng.standard_normal((30, 50)))
    rows = one_answer(rng.integers(0, 50, 31).tolist(), prompt=4)
    whole = DrawsRecorder(rows, 0, 1.0, CPU).record_of(logits)
    pieces = DrawsRecorder(rows, 0, 1.0, CPU)
    for start in range(0, 30, 7):
        part = logits[start : start + 7]
        pieces.watch(start, part, torch.log_softmax(part, dim=-1))
    joined = pieces.record()
    for name, gains in whole.gains.items():
        np.testing.assert_allclose(joined.gains[name], gains, rtol=1e-9, atol=1e-9)


def test_a_nucleus_wider_than_is_looked_at_counts_as_everything() -> None:
    flat = np.zeros(4 * LARGEST)  # each token holds 1/1024: top-p 0.2 is 205 tokens, 0.3 more
    found = recorded(one_answer([0, 1]), flat[None])
    assert gain(found, "top_p", 0.2) == pytest.approx(log((1 - LEAK) / 0.2002 + LEAK), abs=1e-3)
    assert gain(found, "top_p", 0.3) == 0.0
    assert gain(found, "top_k", LARGEST) == pytest.approx(log((1 - LEAK) * 4 + LEAK), abs=1e-4)
    assert gain(found, "min_p", 0.5) == 0.0


def test_nearly_certain_distributions_over_a_flat_tail_gain_nothing() -> None:
    """What is interpolated there rings, and what is taken from 1 is lost in rounding."""
    rng = np.random.default_rng(3)
    for gap in (10.0, 15.0, 20.0):
        logits = 3 * rng.standard_normal((20, 50_000)).astype(np.float32)
        logits[:, 7] = logits.max(axis=1) + gap
        rows = one_answer([0] + [7] * 20)
        found = DrawsRecorder(rows, 0, 1.0, CPU).record_of(torch.from_numpy(logits))
        # The likeliest token each time: no supposition gains more than -ln p of each.
        p = torch.softmax(torch.from_numpy(logits).double(), dim=-1)[:, 7]
        most = float(-p.log().sum())
        for family, gains in found.gains.items():
            assert gains[OBSERVED].max() < most + 1e-4, family


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gains_are_those_of_whole_distributions(temperature: float) -> None:
    """Distributions over 40 tokens, written out in full in float64."""
    rng = np.random.default_rng(1)
    logits = 3 * rng.standard_normal((25, 40)) / temperature
    ids = rng.integers(0, 40, 26)
    found = recorded(one_answer(ids.tolist()), logits, temperature=temperature)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    drawn = np.arange(25), ids[1:]

    def gained(q: NDArray[np.float64]) -> list[float]:
        gains = np.log(q / p)
        mean = (q * gains).sum(axis=1)
        spread = (q * gains**2).sum(axis=1) - mean**2
        return [gains[drawn].sum(), mean.sum(), spread.sum()]

    def cut(kept: NDArray[np.bool_]) -> list[float]:
        held = np.where(kept, p, 0.0)
        return gained((1 - LEAK) * held / held.sum(axis=1, keepdims=True) + LEAK * p)

    def moved(change: NDArray[np.float64]) -> list[float]:
        q = p * np.exp(change)
        return gained(q / q.sum(axis=1, keepdims=True))

    order = np.argsort(-p, axis=1)
    rank = np.argsort(order, axis=1)
    ranked = np.take_along_axis(p, order, axis=1)
    before = np.take_along_axis(np.cumsum(ranked, axis=1) - ranked, rank, axis=1)
    earlier = np.array([np.bincount(ids[1:place], minlength=40) for place in range(1, 26)])
    seen = (earlier > 0) | (np.arange(40) == ids[0])
    sharp = p ** (1 / 0.85)
    expected = {
        ("temperature", 0.85): gained(sharp / sharp.sum(axis=1, keepdims=True)),
        ("top_k", 5): cut(rank < 5),
        ("top_p", 0.83): cut(before < 0.83),
        ("min_p", 0.07): cut(p >= 0.07 * p.max(axis=1, keepdims=True)),
        ("presence_penalty", 0.75): moved(-0.75 / temperature * (earlier > 0)),
        ("frequency_penalty", -0.2): moved(0.2 / temperature * earlier),
        ("repetition_penalty", 1.35): moved(
            seen * (np.where(logits > 0, logits / 1.35, logits * 1.35) - logits)
        ),
    }
    for (family, value), three in expected.items():
        column = found.gains[family][:, FAMILIES[family].values.index(value)]
        assert column == pytest.approx(three, rel=1e-4, abs=1e-4), (family, value)
