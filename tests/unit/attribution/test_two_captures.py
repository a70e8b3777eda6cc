"""Causes that two lists of log-probs show by themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mismatch_lab.attribution import two_captures
from mismatch_lab.attribution.two_captures import (
    causes_of_two,
    looked_at,
    off_their_distribution,
)
from mismatch_lab.captures.capture import Capture, Rows

ROWS, ANSWER = 12, 30


def sound() -> Capture:
    """12 rows of one prompt token and 30 sampled ones at 0 to 5 nats, all apart."""
    rows = Rows.build(
        [list(range(ANSWER + 1))] * ROWS, [1] * ROWS, [[False] + [True] * ANSWER] * ROWS
    )
    logp = -np.random.default_rng(0).uniform(0.01, 5.0, rows.n_tokens).astype(np.float32)
    logp[rows.row_offsets[:-1]] = np.nan
    return Capture(rows, logp)


def with_logp(base: Capture, logp: np.ndarray) -> Capture:
    return replace(base, logp=logp.astype(np.float32))


def noisy(base: Capture, size: float, seed: int = 1) -> Capture:
    noise = np.random.default_rng(seed).normal(0, size, len(base.logp))
    return with_logp(base, np.minimum(base.logp + noise, 0))


def named(infer: Capture, train: Capture) -> list[tuple[str, str]]:
    return [(cause.id, cause.side) for cause in causes_of_two(infer, train)]


def moved(base: Capture, by: int, rows: int = ROWS) -> Capture:
    """The first rows carry their neighbours' values; beyond a row's end the value stays."""
    logp = base.logp.copy()
    for start, stop in list(base.rows.spans())[:rows]:
        answer = base.logp[start + 1 : stop]
        at = np.clip(np.arange(len(answer)) + by, 0, len(answer) - 1)
        logp[start + 1 : stop] = answer[at]
    return with_logp(base, logp)


def test_the_same_log_probs_show_nothing() -> None:
    assert causes_of_two(sound(), sound()) == []


@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.3])
def test_noise_shows_nothing(size: float) -> None:
    assert causes_of_two(sound(), noisy(sound(), size)) == []


@pytest.mark.parametrize("value", [0.0, -9999.0, 1.0])
def test_placeholders_are_the_side_that_carries_them(value: float) -> None:
    base = noisy(sound(), 1e-4)
    logp = base.logp.copy()
    logp[[5, 40, 41, 200]] = value
    spoiled = with_logp(base, logp)
    (cause,) = causes_of_two(sound(), spoiled)
    assert (cause.id, cause.side) == ("sentinel-values", "train")
    assert cause.evidence[0].value == 4
    # Of 360 tokens 356 are left, whose noise of 1e-4 has a mean size of sqrt(2 / pi) of it.
    assert cause.confirmed_by[0].after == pytest.approx(0.8e-4, rel=0.15)
    assert cause.confirmed_by[0].before > 100 * cause.confirmed_by[0].after
    assert named(spoiled, sound()) == [("sentinel-values", "infer")]


def test_a_constant_at_the_end_of_rows_is_the_terminal_token() -> None:
    logp = noisy(sound(), 1e-4).logp.copy()
    logp[sound().rows.row_offsets[1:] - 1] = -100.0
    assert named(sound(), with_logp(sound(), logp)) == [("terminal-token", "train")]


@pytest.mark.parametrize("by", [-1, 1])
def test_a_neighbours_values_are_a_shift_of_either_side(by: int) -> None:
    base = noisy(sound(), 0.02)
    (cause,) = causes_of_two(sound(), moved(base, by))
    assert (cause.id, cause.side) == ("shift-by-one", "both")
    # Independent values between 0 and 5 nats lie 5/3 apart on average; noise of 0.02, 0.016.
    assert cause.confirmed_by[0].before == pytest.approx(5 / 3, rel=0.15)
    assert cause.confirmed_by[0].after == pytest.approx(0.016, rel=0.3)


def test_a_shift_in_some_rows_is_counted() -> None:
    (cause,) = causes_of_two(sound(), moved(noisy(sound(), 0.002), -1, rows=3))
    assert cause.id == "shift-by-one"
    assert f"in 3 of {ROWS} rows" in cause.why


def test_recorded_distributions_say_which_side_is_shifted() -> None:
    shifted = moved(sound(), -1)
    at = np.flatnonzero(sound().rows.sampled)[::3]
    full = np.full((len(at), ANSWER + 1), -50.0, np.float32)
    full[np.arange(len(at)), sound().rows.token_ids[at]] = sound().logp[at]
    # The distributions are those of the sound log-probs: a shifted side with them is off …
    shifted_told = replace(shifted, probe_positions=at, probe_logp=full)
    assert off_their_distribution(sound(), shifted_told) == "train"
    # … and beside a sound side with them, the other one is.
    sound_told = replace(sound(), probe_positions=at, probe_logp=full)
    assert off_their_distribution(sound_told, shifted) == "train"
    assert off_their_distribution(shifted, sound_told) == "infer"
    assert off_their_distribution(sound(), shifted) == "both"


@pytest.mark.parametrize(
    ("grid", "digits"), [("of bfloat16", None), ("of 2 decimals", 2), ("of 3 decimals", 3)]
)
def test_a_coarse_grid_is_the_side_that_lies_on_it(grid: str, digits: int | None) -> None:
    logp = sound().logp
    if digits is None:  # bfloat16 keeps the upper 16 bits; cut off, where programs would round
        rounded = (logp.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    else:
        rounded = np.round(logp, digits)
    (cause,) = causes_of_two(with_logp(sound(), rounded), noisy(sound(), 1e-6))
    assert (cause.id, cause.side) == ("logprob-precision", "infer")
    assert grid in cause.why
    assert cause.evidence[0].value == 1.0


def test_rounding_that_explains_the_difference_is_surer_than_rounding_that_does_not() -> None:
    rounded = with_logp(sound(), np.round(sound().logp, 2))
    (alone,) = causes_of_two(rounded, noisy(sound(), 1e-6))
    (beside,) = causes_of_two(rounded, noisy(sound(), 0.3))
    assert alone.confidence == 0.95
    assert beside.confidence == 0.5
    assert "does not explain" in beside.why


def test_whole_numbers_on_a_coarse_grid_are_no_placeholders() -> None:
    rounded = with_logp(sound(), np.round(sound().logp, 1))  # one in ten is whole
    assert "sentinel-values" not in {id for id, _ in named(sound(), rounded)}


def test_rounding_of_some_rows_is_counted_and_no_placeholder() -> None:
    rounded = np.where(sound().rows.row_ids() < 3, np.round(sound().logp, 1), sound().logp)
    (cause,) = causes_of_two(noisy(sound(), 1e-6), with_logp(sound(), rounded))
    assert (cause.id, cause.side) == ("logprob-precision", "train")
    assert f"in 3 of {ROWS} rows" in cause.why
    assert cause.confidence == 0.95


def test_sure_tokens_are_no_placeholders_where_few_are_contradicted() -> None:
    # 100 of 360 tokens are sure: 0 on both sides, but for 10 (10 %) that the trainer thinks rare.
    sure = np.flatnonzero(sound().rows.sampled)[:100]
    logp = sound().logp.copy()
    logp[sure] = 0.0
    other = noisy(with_logp(sound(), logp), 1e-4).logp.copy()
    other[sure[:10]] = -2.5 + np.arange(10) / 7
    assert causes_of_two(with_logp(sound(), logp), with_logp(sound(), other)) == []


def test_both_sides_on_a_grid_are_told_of_both() -> None:
    one = with_logp(sound(), np.round(sound().logp, 2))
    other = with_logp(sound(), np.round(noisy(sound(), 0.1).logp, 2))
    assert named(one, other) == [("logprob-precision", "both")]


def test_large_captures_are_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looked_at(sound().rows).tolist() == list(range(ROWS))
    monkeypatch.setattr(two_captures, "MOST_TOKENS", 31 * 4)  # four of the rows, of 31 tokens each
    assert looked_at(sound().rows).tolist() == [0, 3, 7, 11]
    assert named(sound(), moved(noisy(sound(), 0.02), -1)) == [("shift-by-one", "both")]
