"""Line up two captures of the same tokens, by integer index and with ids checked first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.capture import Capture, Int64
from mismatch_lab.errors import AlignmentError
from mismatch_lab.measures.rows import row_starts


@dataclass(frozen=True)
class Aligned:
    """The N sampled tokens of two captures, paired."""

    flat: Int64
    """[N] flat token index in either capture."""
    row_ids: Int64
    """[N] ascending."""
    logp_a: NDArray[np.float32]
    """[N] of the first capture (the engine's)."""
    logp_b: NDArray[np.float32]
    """[N] of the second capture (the trainer's)."""
    probes: tuple[Int64, Int64]
    """Indices into the probe arrays of either side, of the positions both probed."""

    @cached_property
    def positions(self) -> Int64:
        """[N] position within the row, counted from its first sampled token."""
        starts = row_starts(self.row_ids)
        counts = np.diff(np.append(starts, len(self.flat)))
        return self.flat - np.repeat(self.flat[starts], counts)


def assert_same_tokens(a: Capture, b: Capture, names: tuple[str, str]) -> None:
    """Raise AlignmentError naming the first row, position and both ids that disagree."""
    if a.rows.n_rows != b.rows.n_rows:
        raise AlignmentError(
            f"{names[0]} has {a.rows.n_rows} rows and {names[1]} has {b.rows.n_rows}.",
            "Both captures must hold the same sequences.",
        )
    if np.array_equal(a.rows.row_offsets, b.rows.row_offsets) and np.array_equal(
        a.rows.token_ids, b.rows.token_ids
    ):
        return
    for row, ((start_a, stop_a), (start_b, stop_b)) in enumerate(
        zip(a.rows.spans(), b.rows.spans(), strict=True)
    ):
        ids_a, ids_b = a.rows.token_ids[start_a:stop_a], b.rows.token_ids[start_b:stop_b]
        shared = min(len(ids_a), len(ids_b))
        differs = np.flatnonzero(ids_a[:shared] != ids_b[:shared])
        if len(differs):
            at = int(differs[0])
            raise AlignmentError(
                f"Row {row}, position {at}: token {ids_a[at]} in {names[0]}, "
                f"{ids_b[at]} in {names[1]}.",
                "Score the engine's token ids, not text that is tokenised again.",
            )
        if len(ids_a) != len(ids_b):
            raise AlignmentError(
                f"Row {row}: {len(ids_a)} tokens in {names[0]}, {len(ids_b)} in {names[1]}; "
                f"they agree up to position {shared - 1}."
            )


def align(a: Capture, b: Capture, names: tuple[str, str] = ("infer", "train")) -> Aligned:
    """Pair the tokens that the engine sampled.

    Raises:
        AlignmentError: rows, ids or sampled marks differ.
    """
    assert_same_tokens(a, b, names)
    if not np.array_equal(a.rows.sampled, b.rows.sampled):
        row = int(a.rows.row_ids()[np.flatnonzero(a.rows.sampled != b.rows.sampled)[0]])
        raise AlignmentError(
            f"Row {row}: {names[0]} and {names[1]} disagree on which tokens were sampled.",
            "Check prompt lengths and loss masks on both sides.",
        )
    flat = np.flatnonzero(a.rows.sampled)
    counts = np.diff(np.searchsorted(flat, a.rows.row_offsets))
    row_ids = np.repeat(np.arange(a.rows.n_rows, dtype=np.int64), counts)
    _, probes_a, probes_b = np.intersect1d(
        a.probe_positions, b.probe_positions, assume_unique=True, return_indices=True
    )
    return Aligned(flat, row_ids, a.logp[flat], b.logp[flat], (probes_a, probes_b))


def identical(pairs: Aligned) -> bool:
    """Whether both sides have the same log-probs to the last bit: of two programs, a copy."""
    return bool(len(pairs.logp_a)) and np.array_equal(pairs.logp_a, pairs.logp_b)
