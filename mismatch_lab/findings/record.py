"""What a record says of itself, before any statistics: rows that are there twice, log-probs that
are no measurement, rows of older weights, and what the loss mask leaves out.

What is left, in rows, is what is compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.align import Aligned, align
from mismatch_lab.captures.capture import UNKNOWN_VERSION, Capture, Int64
from mismatch_lab.findings.edges import record as as_record
from mismatch_lab.findings.floor_ratios import number
from mismatch_lab.measures.rows import row_starts
from mismatch_lab.measures.stats import mean_estimate
from mismatch_lab.schema import EstimateRecord, LagRecord, Manifest, MaskRecord, RecordFindings

UNSURE_NATS = 0.01
"""A token this far from certainty has digits to compare: nearer to probability 1 float32 has few
log-probs to choose from, and two programs hit upon the same one."""

EQUAL_ELSEWHERE = 0.2
"""Share of unsure tokens that two programs have equal to the last bit, at most: of real vLLM and
FSDP 0.15 in float32 and 0 in bfloat16 (mini-gpt-oss). Where more are, both run the same code, and
rows may be equal that nobody copied."""

DIFFERING_TOKENS = 32
"""Unsure tokens in rows that differ, needed to say what share is equal there."""

EQUAL_ROWS = 2
UNSURE_TOKENS = 4
"""Copies are so many rows at least that are equal in so many unsure tokens each, or more:"""
CHANCE = 1e-3
"""as many as chance makes equal, with the share of the others, in at most this share of records."""


@dataclass(frozen=True)
class Examined:
    """A record, and the rows of it that are left to be compared."""

    record: RecordFindings
    rows: Int64
    """[R] ascending; none where nothing is a measurement."""

    @property
    def is_whole(self) -> bool:
        """Whether every row is left."""
        return self.record.compared_rows == self.record.rows


@dataclass(frozen=True)
class Copies:
    """Rows with one side's log-probs in both places."""

    rows: NDArray[np.bool_]
    """[R]"""
    equal_elsewhere: float
    """Share of the unsure tokens of other rows; NaN where none is a copy, or all are."""


def examine(
    infer: Capture, train: Capture, names: tuple[str, str] = ("infer", "train")
) -> Examined:
    """Look at a record before its log-probs are compared.

    Args:
        infer: what the engine says.
        train: what the trainer says of the same tokens.
        names: of the two, for messages.

    Raises:
        AlignmentError: they do not hold the same tokens.
    """
    pairs = align(infer, train, names)
    n_rows = infer.rows.n_rows
    again = repeated_rows(infer, train)
    copies = _not_by_place(copied_rows(pairs, ~again), ~again, train)
    left = ~again & ~copies.rows
    behind, lag = row_lags(infer, train)
    lags = [_of_lag(value, left & (lag == value), pairs) for value in _values(lag, left)]
    stale = np.zeros(n_rows, bool)
    if lags:
        stale = left & (lag != lags[0].lag)
    compared = np.flatnonzero(left & ~stale)
    return Examined(
        RecordFindings(
            rows=n_rows,
            compared_rows=len(compared),
            repeated_rows=int(again.sum()),
            copied_rows=int(copies.rows.sum()),
            copied_tokens=int(copies.rows[pairs.row_ids].sum()),
            equal_elsewhere=copies.equal_elsewhere,
            stale_rows=int(stale.sum()),
            behind=behind if lags else None,
            lags=lags,
            grows=len(lags) > 1 and _below(lags[0].abs_delta_mean, lags[-1].abs_delta_mean),
            mask=_masked(infer, train, compared, pairs),
        ),
        compared,
    )


def copies(captures: Mapping[str, Capture]) -> RecordFindings | None:
    """The record of a run whose sides were started, where rows of it are copies, which stay in all
    that was measured; else None: what a run has recorded itself is otherwise as it says.
    """
    if not {"decode", "train"} <= captures.keys():
        return None
    found = examine(captures["decode"], captures["train"]).record
    if not (found.copied_rows and found.compared_rows):
        return None
    return found.model_copy(update={"compared_rows": found.rows, "repeated_rows": 0})


def repeated_rows(infer: Capture, train: Capture) -> NDArray[np.bool_]:
    """[R] rows that an earlier one is to the last bit: as ranks write that share a batch."""
    arrays = (infer.logp, train.logp, infer.rows.token_ids, infer.rows.sampled)
    seen: dict[int, list[slice]] = {}
    again = np.zeros(infer.rows.n_rows, bool)
    for row, (start, stop) in enumerate(infer.rows.spans()):
        here = slice(start, stop)
        earlier = seen.setdefault(hash(infer.logp[here].tobytes()), [])
        again[row] = any(
            all(array[here].tobytes() == array[other].tobytes() for array in arrays)
            for other in earlier
        )
        if not again[row]:
            earlier.append(here)
    return again


def copied_rows(pairs: Aligned, among: NDArray[np.bool_]) -> Copies:
    """Rows equal to the last bit, where they are too many for two measurements.

    All of them, if all are; otherwise only where the rest shows how rarely two measurements are.

    Args:
        pairs: sampled tokens of both sides.
        among: [R] rows that are looked at.
    """
    nothing = Copies(np.zeros(len(among), bool), np.nan)
    same = pairs.logp_a == pairs.logp_b
    told = ~(np.isnan(pairs.logp_a) & np.isnan(pairs.logp_b))
    starts = row_starts(pairs.row_ids)
    rows = pairs.row_ids[starts]
    whole = np.zeros(len(among), bool)
    whole[rows] = np.logical_and.reduceat(same | ~told, starts)
    whole[rows] &= np.logical_or.reduceat(told, starts)
    whole &= among
    if whole.sum() < min(EQUAL_ROWS, among.sum()):
        return nothing
    inside = told & among[pairs.row_ids]
    if same[inside].all():
        return Copies(whole, np.nan)
    unsure = inside & (np.fmin(pairs.logp_a, pairs.logp_b) < -UNSURE_NATS)
    elsewhere = unsure & ~whole[pairs.row_ids]
    n, equal = int(elsewhere.sum()), int((elsewhere & same).sum())
    # At most: two more of four more, which Agresti and Coull add for an upper end.
    at_most = (equal + 2) / (n + 4)
    if n < DIFFERING_TOKENS or at_most > EQUAL_ELSEWHERE:
        return nothing
    counts = np.bincount(pairs.row_ids[unsure], minlength=len(among))
    surely = whole & (counts >= UNSURE_TOKENS) & (at_most**counts * len(among) < CHANCE)
    return Copies(whole, equal / n) if surely.sum() >= EQUAL_ROWS else nothing


def _not_by_place(found: Copies, among: NDArray[np.bool_], train: Capture) -> Copies:
    """None of them where the trainer packed and they are all sequences that lay behind no other: a
    leak leaves these as they are, and one program on both sides says the same of them.
    """
    if train.packs is None:
        return found
    behind = train.packs[:, 1] > 0
    first = among & ~behind
    if not (among & behind).any() or (found.rows != first).any():
        return found
    return Copies(np.zeros(len(among), bool), np.nan)


def row_lags(
    infer: Capture, train: Capture
) -> tuple[Literal["trainer", "newest"] | None, NDArray[np.float64]]:
    """[R] how many versions of the weights each row's engine is behind; NaN where nobody says.

    Of a row that several versions sampled it is the largest.
    """
    rows, versions = infer.rows, infer.versions
    sampled = np.flatnonzero(rows.sampled)
    if versions is None or (versions[sampled] == UNKNOWN_VERSION).all():
        return None, np.full(rows.n_rows, np.nan)
    reached = train.versions
    known = reached is not None and bool((reached[sampled] != UNKNOWN_VERSION).any())
    if reached is None or not known:
        reached = np.full(rows.n_tokens, versions[sampled].max())
    unknown = (versions == UNKNOWN_VERSION) | (reached == UNKNOWN_VERSION)
    behind = np.where(unknown, np.inf, reached - versions)
    lag = np.full(rows.n_rows, -np.inf)
    np.maximum.at(lag, rows.row_ids()[sampled], behind[sampled])
    lag[np.isinf(lag)] = np.nan
    return "trainer" if known else "newest", lag


def with_version(capture: Capture, manifest: Manifest | None, side: str) -> Capture:
    """The capture with the version that its manifest names, where it has none for each token.

    Args:
        capture: of one side.
        manifest: its own; arrays have none.
        side: `infer` or `train`.
    """
    version = manifest.options.get(f"weight_version_{side}") if manifest is not None else None
    if capture.versions is not None or not isinstance(version, int):
        return capture
    return replace(capture, versions=np.full(capture.rows.n_tokens, version, np.int64))


def in_words(record: RecordFindings) -> list[str]:
    """What was left out and why, staleness apart from mismatch, and what a mask hides: a sentence
    each; none where there is nothing to say.
    """
    said = []
    if record.repeated_rows:
        said.append(
            f"{record.repeated_rows} of {record.rows} rows are there again to the last bit, as "
            "where ranks write the same batch: counted once."
        )
    if record.copied_rows and record.compared_rows:
        said.append(
            f"In {record.copied_rows} of {record.rows} rows both sides have the same log-probs to "
            f"the last bit ({record.copied_tokens} tokens), elsewhere {record.equal_elsewhere:.1%} "
            "of tokens: copied, and no measurement."
            + (" They are left out." if record.compared_rows < record.rows else "")
        )
    return said + _lags_in_words(record) + _mask_in_words(record.mask)


def _lags_in_words(record: RecordFindings) -> list[str]:
    if not record.lags:
        return []
    since = "the trainer" if record.behind == "trainer" else "the newest of the record"
    first, last = record.lags[0], record.lags[-1]
    if first.lag:
        return [
            f"No row was sampled with the weights of {since}, the nearest {_versions(first.lag)} "
            "behind: staleness is in every number, and mismatch cannot be told from it."
        ]
    if len(record.lags) == 1:
        return []
    what = (
        "mismatch is what is there at lag 0, the growth is staleness"
        if record.grows
        else "it does not grow with the lag beyond its intervals"
    )
    return [
        f"Mean |delta| is {number(first.abs_delta_mean)} nats at lag 0 ({first.rows} rows) and "
        f"{number(last.abs_delta_mean)} {_versions(last.lag)} behind {since} ({last.rows} rows): "
        f"{what}. Compared are the rows at lag 0."
    ]


def _versions(lag: int) -> str:
    return f"{lag} version{'' if abs(lag) == 1 else 's'}"


def _mask_in_words(mask: MaskRecord | None) -> list[str]:
    if mask is None:
        return []
    what = (
        "numbers over the loss alone would hide it" if mask.hides else "no worse, by its interval"
    )
    whole = f", {mask.rows} whole rows among them" if mask.rows else ""
    return [
        f"The loss mask leaves out {mask.left_out.n} sampled tokens{whole}: mean |delta| "
        f"{number(mask.left_out)} nats there, {number(mask.in_loss)} in the loss; {what}."
    ]


def _values(lag: NDArray[np.float64], among: NDArray[np.bool_]) -> list[float]:
    """Lags that occur, the one nearest to 0 first."""
    return sorted(
        set(lag[among & np.isfinite(lag)].tolist()), key=lambda value: (abs(value), value)
    )


def _of_lag(lag: float, rows: NDArray[np.bool_], pairs: Aligned) -> LagRecord:
    return LagRecord(
        lag=int(lag), rows=int(rows.sum()), abs_delta_mean=_mean(rows[pairs.row_ids], pairs)
    )


def _masked(infer: Capture, train: Capture, rows: Int64, pairs: Aligned) -> MaskRecord | None:
    """None without a loss mask that leaves something out of these rows."""
    loss = infer.loss_mask if infer.loss_mask is not None else train.loss_mask
    if loss is None:
        return None
    counts, here = loss[pairs.flat], np.isin(pairs.row_ids, rows)
    if counts[here].all():
        return None
    left_out, in_loss = _mean(here & ~counts, pairs), _mean(here & counts, pairs)
    return MaskRecord(
        rows=len(rows) - len(np.unique(pairs.row_ids[here & counts])),
        left_out=left_out,
        in_loss=in_loss,
        hides=_below(in_loss, left_out),
    )


def _mean(chosen: NDArray[np.bool_], pairs: Aligned) -> EstimateRecord:
    """Mean |delta| of these tokens."""
    delta = np.abs(pairs.logp_b[chosen].astype(np.float64) - pairs.logp_a[chosen])
    return as_record(mean_estimate(delta, pairs.row_ids[chosen]))


def _below(low: EstimateRecord, high: EstimateRecord) -> bool:
    """Whether one is below the other, beyond both intervals; never where one has none."""
    return low.ci95[1] < high.ci95[0]
