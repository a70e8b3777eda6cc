"""Rows that say which weights an engine has: simulated sides, whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mismatch_lab.trainer.row_check import (
    CHECK_ROWS,
    ERROR_RATE,
    RowCheck,
    Scored,
    check_rows,
    chosen_rows,
)

Float = NDArray[np.float64]
ROWS, TOKENS = 32, 40


class Step:
    """An update that moves log-probs by `size`, seen by two sides with noises of their own."""

    def __init__(self, seed: int, size: float, noise: float = 0.0, rows: int = ROWS) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape = (rows, TOKENS)
        self.noise = noise
        self.old = self.rng.normal(-2, 1, self.shape)
        # A row that was rewarded becomes likelier, most of its tokens; the others less likely.
        pushed = np.where(np.arange(rows) % 8 == 0, 1.0, -1.0)[:, None]
        self.new = self.old + size * (pushed + self.rng.normal(0, 1.5, self.shape))

    def seen(self, true: Float, bias: float = 0.0) -> Float:
        """As a side computes it: heavy tails, most tokens hardly moved."""
        tails = self.rng.lognormal(0, 2, self.shape)
        return true + bias + self.noise * tails * self.rng.normal(0, 1, self.shape)


def judged(before: Scored, after: Scored, dtype: str = "float32") -> RowCheck:
    sampled = np.ones(before.train.shape, bool)
    sampled[:, :4] = False  # a prompt
    return check_rows(before, after, sampled, dtype)


def sound(step: Step, bias: float = 0.0) -> RowCheck:
    before = Scored(step.seen(step.old, bias), step.seen(step.old))
    return judged(before, Scored(step.seen(step.new, bias), step.seen(step.new)))


def stale(step: Step, repeats: bool = True, bias: float = 0.0) -> RowCheck:
    before = Scored(step.seen(step.old, bias), step.seen(step.old))
    infer = before.infer if repeats else step.seen(step.old)
    return judged(before, Scored(step.seen(step.new, bias), infer))


def test_by_hand() -> None:
    # Two tokens, the first rises by 0.2, the second falls by 0.1; the engine is off by 0.03.
    before = Scored(np.array([[-1.0, -2.0]]), np.array([[-1.03, -2.03]]))
    after = Scored(np.array([[-0.8, -2.1]]), np.array([[-0.83, -2.13]]))
    found = check_rows(before, after, np.ones((1, 2), bool), "float32")
    assert (found.rows, found.rows_old, found.rows_kept) == (1, 0, 0)
    assert found.abs_delta == pytest.approx(0.03)
    assert found.abs_delta_before == pytest.approx(0.03)
    assert found.answer == "undecided"  # one row is one coin
    kept = check_rows(before, Scored(after.train, before.infer), np.ones((1, 2), bool), "float32")
    assert (kept.rows, kept.rows_old, kept.rows_kept) == (1, 1, 1)
    # |-0.8 + 1.03| and |-2.1 + 2.03|
    assert kept.abs_delta == pytest.approx((0.23 + 0.07) / 2)


def test_a_sound_engine_in_float32_has_the_new_weights_and_a_stale_one_the_old() -> None:
    for seed in range(20):
        assert sound(Step(seed, 1e-5, 1e-7)).answer == "new"
        assert stale(Step(seed, 1e-5, 1e-7)).answer == "old"
        assert stale(Step(seed, 1e-5, 1e-7), repeats=False).answer == "old"


def test_where_rounding_is_larger_than_the_update_an_engine_that_repeats_itself_is_found() -> None:
    # A step of 1e-6 under roundings of 0.001 to 0.1: neither set of log-probs is the nearer.
    for seed in range(20):
        found = stale(Step(seed, 1e-6, 1e-3))
        assert found.answer == "old"
        assert found.rows_kept == ROWS
        # Without that, nothing is known, and nothing is said.
        assert stale(Step(seed, 1e-6, 1e-3), repeats=False).answer == "undecided"


@pytest.mark.parametrize("size", [1e-6, 1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("noise", [1e-7, 1e-4, 1e-3, 1e-2])
def test_a_sound_engine_is_never_taken_for_a_stale_one(size: float, noise: float) -> None:
    for seed in range(100):
        found = sound(Step(seed, size, noise))
        assert found.answer != "old"
        assert found.agrees


@pytest.mark.parametrize("bias", [0.01, 1.0])
def test_nor_where_the_trainer_is_broken(bias: float) -> None:
    # Its log-probs are off to one side, and 28 of 32 rows were pushed to the other.
    for seed in range(100):
        assert sound(Step(seed, 1e-4, 1e-6), bias).answer != "old"
        assert sound(Step(seed, 1e-4, 1e-6), -bias).answer != "old"
        assert sound(Step(seed, 1e-4, 1e-6), bias).agrees
        assert stale(Step(seed, 1e-4, 1e-6), bias=bias).answer == "old"


def test_too_few_rows_decide_nothing() -> None:
    # 2^-21 is more than a third of the error rate, 2^-22 less.
    assert 2**-22 < ERROR_RATE / 3 < 2**-21
    assert stale(Step(0, 1e-3, 1e-7, rows=21)).answer == "undecided"
    assert stale(Step(0, 1e-3, 1e-7, rows=22)).answer == "old"


def test_an_update_that_changed_nothing_says_nothing() -> None:
    found = sound(Step(0, 0.0))
    assert (found.answer, found.rows, found.rows_old, found.rows_kept) == ("undecided", 0, 0, 0)


@pytest.mark.parametrize(("noise", "dtype"), [(1e-7, "float32"), (1e-3, "bfloat16")])
def test_garbage_does_not_agree(noise: float, dtype: str) -> None:
    step = Step(0, 1e-4, noise)
    before = Scored(step.seen(step.old), step.seen(step.old))
    garbage = step.rng.normal(-6, 1, step.shape)
    found = judged(before, Scored(step.seen(step.new), garbage), dtype)
    assert (found.answer, found.agrees, found.rows_worse) == ("undecided", False, ROWS)


def test_one_token_that_went_astray_is_one_vote() -> None:
    step = Step(0, 1e-4, 1e-3)
    before, after = (Scored(step.seen(t), step.seen(t)) for t in (step.old, step.new))
    after.infer[3, 7] -= 20.0
    found = judged(before, after, "bfloat16")
    assert found.agrees
    assert found.abs_delta > 2 * found.abs_delta_before


def test_a_log_prob_that_is_lost_is_no_agreement() -> None:
    step = Step(0, 1e-4, 1e-3)
    before, after = (Scored(step.seen(t), step.seen(t)) for t in (step.old, step.new))
    after.infer[3, 7] = np.nan
    assert not judged(before, after, "bfloat16").agrees
    before.infer[3, 7] = np.nan  # the engine had none before: the transfer is not to blame
    assert judged(before, after, "bfloat16").agrees


def test_prompts_and_padding_do_not_count() -> None:
    step = Step(0, 1e-4, 1e-6)
    before, after = (Scored(step.seen(t), step.seen(t)) for t in (step.old, step.new))
    for scored in (before, after):
        scored.infer[:, :4] = np.nan
    found = judged(before, after)
    assert found.answer == "new"
    assert found.abs_delta < 1e-3


def test_rows_of_all_lengths_are_chosen() -> None:
    lengths = np.array([30, 500, 20, 90, 40, 10] * 20)
    chosen = chosen_rows(lengths)
    assert len(set(chosen)) == CHECK_ROWS
    assert chosen == sorted(chosen)
    assert set(lengths[chosen]) == {10, 20, 30, 40, 90, 500}
    assert chosen_rows(np.array([7, 3, 5])) == [0, 1, 2]
