"""Per-row records, as engines make them, put together into one capture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.capture import Capture, Float32, Int64, Rows
from mismatch_lab.captures.draws import Draws, Float64
from mismatch_lab.engines.base import ScoreRequest
from mismatch_lab.errors import EngineError

Array = TypeVar("Array", bound=NDArray[Any])

COUNTED = 0.01
"""Expected draws of a token in a row below which they are left out: what is summed then is a lower
bound, and a row keeps hundreds of numbers, not one for each token of the vocabulary."""


@dataclass(frozen=True)
class RowDraws:
    """What `captures.draws.Draws` holds, of one row of n tokens."""

    entropy: Float32
    """[n]"""
    variance: Float32
    """[n]"""
    gains: dict[str, Float64]
    """family -> [3, M]"""
    vocabulary: int
    """Tokens of a distribution; 0 where the row has none."""
    expected_ids: Int64
    """Tokens expected at least COUNTED times."""
    expected_counts: Float32
    """And how often each was."""


@dataclass
class RowRecord:
    """What was recorded of one row of n tokens, p of them probed."""

    logp: Float32
    """[n]; the first is NaN"""
    probe_logp: Float32 | None = None
    """[p, V]"""
    probe_lse: Float32 | None = None
    """[p]"""
    router_topk: NDArray[np.int16] | None = None
    """[n, L, K]"""
    router_logits: Float32 | None = None
    """[n, L, E]"""
    hidden: dict[str, Float32] = field(default_factory=dict)
    """name -> [p, D]"""
    draws: RowDraws | None = None
    pack: tuple[int, int] | None = None
    """Packed row that it lay in and its place there; None where nothing was packed."""


def local_probes(rows: Rows, probe_positions: Int64, row: int) -> Int64:
    """Probe positions of one row, counted from its first token."""
    start, stop = int(rows.row_offsets[row]), int(rows.row_offsets[row + 1])
    inside = (probe_positions >= start) & (probe_positions < stop)
    return np.asarray(probe_positions[inside] - start, np.int64)


def assemble(rows: Rows, request: ScoreRequest, records: list[RowRecord]) -> Capture:
    """One capture from the records of all rows, in order.

    Raises:
        EngineError: rows disagree on what was recorded.
    """
    if len(records) != rows.n_rows:
        raise EngineError(f"{len(records)} records for {rows.n_rows} rows.")
    probes = [r.probe_logp for r in records if r.probe_logp is not None]
    return Capture(
        rows,
        np.concatenate([r.logp for r in records]).astype(np.float32),
        request.probe_positions,
        np.concatenate(probes) if probes else None,
        _stack([r.router_topk for r in records], "router_topk"),
        _stack([r.router_logits for r in records], "router_logits"),
        _hidden(rows, request, records),
        probe_lse=_stack([r.probe_lse for r in records], "probe_lse"),
        draws=_draws([r.draws for r in records if r.draws is not None]),
        packs=_packs([r.pack for r in records]),
    )


def _stack(parts: list[Array | None], name: str) -> Array | None:
    present = [part for part in parts if part is not None]
    if not present:
        return None
    if len(present) != len(parts):
        raise EngineError(f"{name} was recorded for {len(present)} of {len(parts)} rows.")
    joined: Array = np.concatenate(present)
    return joined


def _packs(said: list[tuple[int, int] | None]) -> Int64 | None:
    """[R, 2]; None where some row was not packed."""
    known = [pack for pack in said if pack is not None]
    return np.array(known, np.int64) if len(known) == len(said) else None


def _draws(records: list[RowDraws]) -> Draws | None:
    """Of all rows; None where none was asked for."""
    if not records:
        return None
    expected = np.zeros(max(record.vocabulary for record in records), np.float32)
    for record in records:
        expected[record.expected_ids] += record.expected_counts
    return Draws(
        np.concatenate([record.entropy for record in records]),
        np.concatenate([record.variance for record in records]),
        {name: np.stack([r.gains[name] for r in records]) for name in records[0].gains},
        expected,
    )


def _hidden(rows: Rows, request: ScoreRequest, records: list[RowRecord]) -> dict[str, Float32]:
    """[P, D] per name; NaN at probes of rows where the name was not recorded (replays)."""
    counts = [len(local_probes(rows, request.probe_positions, r)) for r in range(rows.n_rows)]
    starts = np.cumsum([0, *counts])
    widths = {name: a.shape[1] for record in records for name, a in record.hidden.items()}
    hidden = {
        name: np.full((len(request.probe_positions), width), np.nan, np.float32)
        for name, width in widths.items()
    }
    for start, count, record in zip(starts, counts, records, strict=False):
        for name, array in record.hidden.items():
            if array.shape != (count, widths[name]):
                raise EngineError(
                    f"Tap {name} recorded {array.shape}, not {(count, widths[name])}."
                )
            hidden[name][start : start + count] = array
    return hidden
