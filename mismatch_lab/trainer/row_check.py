"""Of which weights an engine's log-probs are: the trainer's before an update, or those after it.

A few rows of a step are scored four times: by the trainer and by the engine, before the update and
after the transfer. Rows vote, since tokens of one row are not independent, and each question is a
sign test (Dixon and Mood 1946): where the votes mean nothing, they fall as coins do.

1. Did the engine change at all? A row votes "kept" where its log-probs moved by less than a
   hundredth of what the trainer's did, and "moved alone" where it is the other way round. Both
   sides took the same step, so a sound engine gives either vote as often as the other. Rounding has
   no say here: an engine that kept its weights gives the numbers that it gave before.
2. Is it nearer to the old log-probs or to the new ones? Tokens that became likelier and tokens that
   became less likely count alike, so that a bias of one side (a trainer that is broken, say), which
   favours the old weights on the one kind and the new ones on the other, casts no vote.
3. Do the sides agree as well as before? A row votes "worse" where they disagree three times as
   much. That needs no yardstick from elsewhere: it is the same rows, the same tokens and the same
   two programs, one update earlier; and one token that rounding sent to another expert is one vote.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Answer = Literal["new", "old", "undecided"]

CHECK_ROWS = 32
"""Of all lengths. Twenty-two rows of one mind are the fewest that decide anything at a third of
`ERROR_RATE` (2^-22 = 2.4e-7), and so do 30 of 32."""
ERROR_RATE = 1e-6
"""Of finding fault with a sound engine, in one transfer: one false alarm in a hundred runs of
10,000 transfers. Each of the three tests has a third of it."""
KEPT_SHARE = 0.01
"""An engine whose log-probs moved by less than this share of the trainer's kept its weights."""
GROWTH = 3.0
"""A row whose sides disagree so many times more than before votes against the transfer."""
LEAST_NATS = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}
"""But not where it is less than rounding does to a logit of some ten: sides that agreed to the bit
need not do so in another batch."""


@dataclass(frozen=True)
class RowCheck:
    """What the rows say of one engine."""

    answer: Answer
    rows: int
    """Rows with a token of an answer that the update changed."""
    rows_old: int
    """Of those, how many are nearer to the old weights; the others are nearer to the new, or
    undecided."""
    rows_kept: int
    """Rows whose log-probs the transfer hardly moved in the engine, though the update moved them in
    the trainer."""
    rows_worse: int
    """Rows in which the sides disagree much more than before."""
    abs_delta_before: float
    """Mean |logp_train - logp_infer| of answers' tokens before update and transfer, nats."""
    abs_delta: float
    """After them."""
    agrees: bool
    """Whether the sides agree as well as before; not where the engine has lost a number."""


@dataclass(frozen=True)
class Scored:
    """Log-probs of the same tokens, [R, n] nats; NaN where there is none."""

    train: Float
    infer: Float


def check_rows(before: Scored, after: Scored, sampled: NDArray[np.bool_], dtype: str) -> RowCheck:
    """Ask rows which weights the engine has.

    Args:
        before: the update.
        after: update and transfer.
        sampled: [R, n] tokens that the engine drew.
        dtype: of both sides' computation.
    """
    change_train, change_infer = after.train - before.train, after.infer - before.infer
    rises = np.sign(np.where(sampled, np.nan_to_num(change_train), 0.0))
    nearer_new = np.sign(np.abs(after.infer - before.train) - np.abs(after.infer - after.train))
    votes = np.sign(_balanced(np.nan_to_num(nearer_new), rises))
    kept = _kept(change_infer, change_train, sampled)
    deltas = [scored.train - scored.infer for scored in (before, after)]
    worse = _worse(deltas[0], deltas[1], sampled, LEAST_NATS[dtype])
    alpha = ERROR_RATE / 3
    answer: Answer = "undecided"
    if min(_tail(votes < 0, votes > 0), _tail(kept < 0, kept > 0)) < alpha:
        answer = "old"
    elif _tail(votes > 0, votes < 0) < alpha:
        answer = "new"
    return RowCheck(
        answer,
        int((rises != 0).any(axis=1).sum()),
        int((votes < 0).sum()),
        int((kept < 0).sum()),
        int((worse < 0).sum()),
        _mean_abs(deltas[0], sampled),
        _mean_abs(deltas[1], sampled),
        _tail(worse < 0, worse > 0) >= alpha and not _lost(before.infer, after.infer, sampled),
    )


def chosen_rows(lengths: NDArray[np.int64]) -> list[int]:
    """At most `CHECK_ROWS` rows, evenly from the shortest to the longest, in order."""
    ordered = np.argsort(lengths, kind="stable")
    places = np.linspace(0, len(ordered) - 1, min(CHECK_ROWS, len(ordered))).round().astype(int)
    return sorted(int(row) for row in ordered[places])


def _balanced(votes: Float, rises: Float) -> Float:
    """[R] mean vote of the tokens that rose plus that of those that fell; 0 where a kind lacks."""
    total = np.zeros(len(votes))
    for sign in (1.0, -1.0):
        chosen = rises == sign
        count = chosen.sum(axis=1)
        total += (votes * chosen).sum(axis=1) / np.maximum(count, 1)
        total = np.where(count > 0, total, np.nan)
    return np.nan_to_num(total)


def _kept(infer: Float, train: Float, sampled: NDArray[np.bool_]) -> Float:
    """[R] -1 where the engine's log-probs hardly moved, 1 where the trainer's did not."""
    moved_infer, moved_train = _sums(infer, train, sampled)
    kept = (moved_infer <= KEPT_SHARE * moved_train) & (moved_train > 0)
    alone = (moved_train <= KEPT_SHARE * moved_infer) & (moved_infer > 0)
    return np.where(kept, -1.0, np.where(alone, 1.0, 0.0))


def _worse(before: Float, after: Float, sampled: NDArray[np.bool_], least_nats: float) -> Float:
    """[R] -1 where the sides disagree much more than before, 1 where it is the other way round."""
    was, is_now = _sums(before, after, sampled)
    least = least_nats * sampled.sum(axis=1)
    worse, better = (
        is_now > np.maximum(GROWTH * was, least),
        was > np.maximum(GROWTH * is_now, least),
    )
    return np.where(worse, -1.0, np.where(better, 1.0, 0.0))


def _sums(a: Float, b: Float, sampled: NDArray[np.bool_]) -> tuple[Float, Float]:
    """[R] each: sums of absolute values over the tokens that have both."""
    known = sampled & np.isfinite(a) & np.isfinite(b)
    first, second = (np.abs(np.where(known, values, 0.0)).sum(axis=1) for values in (a, b))
    return first, second


def _lost(before: Float, after: Float, sampled: NDArray[np.bool_]) -> bool:
    """Whether a token has a log-prob no longer."""
    return bool((sampled & np.isfinite(before) & ~np.isfinite(after)).any())


def _tail(hits: NDArray[np.bool_], misses: NDArray[np.bool_]) -> float:
    """Probability that as many of so many coins show heads."""
    heads, coins = int(hits.sum()), int(hits.sum() + misses.sum())
    return float(sum(math.comb(coins, k) for k in range(heads, coins + 1)) / 2**coins)


def _mean_abs(deltas: Float, sampled: NDArray[np.bool_]) -> float:
    """Over answers' tokens; one without a number makes it NaN."""
    return float(np.abs(deltas[sampled]).mean()) if sampled.any() else math.nan
