"""The one shape that every format's rows are brought to, and what is wrong with those that are not.

A value at t is of token t. What a format fills in where nothing was measured is NaN here; what may
be a defect of the run (0.0 at a token that was sampled) stays as the dump has it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.errors import InputError
from mismatch_lab.ingest.sampling import HowSampled

Bools = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Mask = Literal["generated", "loss"]

MOST_ROW_TOKENS = 2**22
"""Tokens of one sequence: four times the longest contexts there are. More is a broken length."""

LARGEST_ID = 2**31 - 1
"""A capture holds ids as int32; no vocabulary comes near."""


Pack = tuple[tuple[int, ...], int]
"""What names the packed row that a sequence lay in, within its step, and its place there."""


@dataclass(frozen=True)
class DumpRow:
    """One sequence of L tokens, as a framework wrote it down."""

    where: str
    """File, and line or place in it, for people."""
    token_ids: NDArray[np.int32]
    """[L]"""
    generated: Bools
    """[L] tokens that the engine drew."""
    loss: Bools | None
    """[L] those of them that the loss counts; None where the dump does not say."""
    logp_infer: Float32
    """[L] nats; NaN where there is none."""
    logp_train: Float32
    """[L]"""
    versions: tuple[str, ...] = ()
    """Of the engine's weights, in the order in which they generated; empty where unknown."""
    pack: Pack | None = None
    """None where the dump does not say how the trainer packed."""
    experts: NDArray[np.int16] | None = None
    """[L, layers, K] that the engine chose where token t is the input; -1 where it is none."""


@dataclass
class Reading:
    """What a reader is told, and what it tells of what it read."""

    mask: Mask = "generated"
    on_bytes: Callable[[int], None] = lambda _read: None
    """Is told how much of the file has been read."""
    how: HowSampled = field(default_factory=lambda: HowSampled({}))
    """What is said of the sampling."""
    counts: Counter[str] = field(default_factory=Counter)
    """What was left out or put right -> how often."""


def build_row(
    where: str,
    token_ids: Any,
    generated: Any,
    loss: Any,
    logp: Mapping[str, Any],
    versions: Sequence[str] = (),
) -> DumpRow:
    """A row of lists or arrays, checked.

    Args:
        where: for people.
        token_ids: [L] integers.
        generated: [L] booleans, or numbers of which 0 is false.
        loss: the same, or None.
        logp: the engine's and the trainer's [L], in this order, by the names that they have in the
            dump; null is NaN.
        versions: of the engine's weights.

    Raises:
        InputError: other lengths than the token ids', or values of another kind.
    """
    ids = _integers(where, token_ids)
    masks = [
        None if m is None else _numbers(where, "mask", m, len(ids)) > 0 for m in (generated, loss)
    ]
    infer, train = (_numbers(where, name, values, len(ids)) for name, values in logp.items())
    assert masks[0] is not None
    return DumpRow(where, ids, masks[0], masks[1], infer, train, tuple(versions))


def _integers(where: str, values: Any) -> NDArray[np.int32]:
    try:
        ids = np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{where}: token ids are no list of integers: {error}.") from error
    if ids.ndim != 1 or not len(ids) or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"{where}: token ids are no list of integers.")
    if len(ids) > MOST_ROW_TOKENS:
        raise InputError(
            f"{where}: {len(ids)} tokens in a row; at most {MOST_ROW_TOKENS} are read."
        )
    if int(ids.min()) < 0 or int(ids.max()) > LARGEST_ID:
        worst = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
        raise InputError(f"{where}: {worst} is no token id.")
    return ids.astype(np.int32)


def _numbers(where: str, name: str, values: Any, length: int) -> Float32:
    try:
        with np.errstate(over="ignore"):  # 1e300 is as infinite as a log-prob can be
            found = np.asarray(values, np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{where}: {name} is no list of numbers: {error}.") from error
    if found.shape != (length,):
        shown = len(found) if found.ndim == 1 else list(found.shape)
        raise InputError(f"{where}: {name} has {shown} values for {length} tokens.")
    return found


@dataclass(frozen=True)
class Chosen:
    """A row with the tokens that are compared, [L] each; log-probs are NaN at the others."""

    token_ids: NDArray[np.int32]
    sampled: Bools
    logp_infer: Float32
    logp_train: Float32
    versions: tuple[str, ...]
    pack: Pack | None = None
    experts: NDArray[np.int16] | None = None


FIRST = "first tokens of a row marked as sampled (nothing stands before them)"
NOTHING = "rows without a token to compare"
NO_INFER = "sampled tokens without a log-prob of the engine"
NO_TRAIN = "sampled tokens without a log-prob of the trainer"
ZERO_INFER = "sampled tokens at which the engine has exactly 0.0"
ZERO_TRAIN = "sampled tokens at which the trainer has exactly 0.0"
EQUAL = "sampled tokens at which both sides are equal to the last bit"
BOTH = "sampled tokens with a log-prob on both sides"


def choose(row: DumpRow, reading: Reading) -> Chosen | None:
    """The tokens of a row that the mask asks for; None where there are none.

    Raises:
        InputError: a loss mask is asked for and the dump has none.
    """
    if reading.mask == "loss" and row.loss is None:
        raise InputError(f"{row.where} has no loss mask.", "Use --mask generated.")
    sampled = row.loss if reading.mask == "loss" and row.loss is not None else row.generated
    counts = reading.counts
    if sampled[0]:
        sampled = sampled.copy()
        sampled[0] = False
        counts[FIRST] += 1
    if not sampled.any():
        counts[NOTHING] += 1
        return None
    infer, train = row.logp_infer[sampled], row.logp_train[sampled]
    for name, values in (
        (NO_INFER, np.isnan(infer)),
        (NO_TRAIN, np.isnan(train)),
        (ZERO_INFER, infer == 0),
        (ZERO_TRAIN, train == 0),
        (EQUAL, infer == train),
        (BOTH, np.isfinite(infer) & np.isfinite(train)),
    ):
        counts[name] += int(values.sum())
    nan = np.float32(np.nan)
    return Chosen(
        row.token_ids,
        sampled,
        np.where(sampled, row.logp_infer, nan),
        np.where(sampled, row.logp_train, nan),
        row.versions,
        row.pack,
        row.experts,
    )
