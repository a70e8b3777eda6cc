"""Isolated errors: every module of this side fed what the other side's module was fed.

A hook in front of each module swaps its input, so that no module sees what an earlier one of this
side got wrong. Modules within modules take a forward each: to test attention as a whole, the
projections inside it must see what this side's attention hands them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import torch

from mismatch_lab.captures.capture import Float32, Rows
from mismatch_lab.captures.names import FINAL_NORM, nesting
from mismatch_lab.captures.taps import Tap
from mismatch_lab.engines.assemble import RowRecord
from mismatch_lab.engines.base import Progress, ScoreRequest
from mismatch_lab.engines.chunked_logp import log_softmax
from mismatch_lab.engines.torch_score import TorchScorer
from mismatch_lab.errors import EngineError

Last = TypeVar("Last")


def replay_rows(
    scorer: TorchScorer, rows: Rows, request: ScoreRequest, progress: Progress
) -> dict[int, RowRecord]:
    """Records of all rows: hidden states of the replayed ones, nothing of the others.

    `request.replay` maps `NAME:in` (and `model.norm`, which the head is fed) to [P, D].
    """
    records = {}
    scorer.learn_axes(rows)
    with torch.no_grad(), scorer.tap.attached():
        for row in range(rows.n_rows):
            records[row] = _replay_row(scorer, rows, row, request)
            progress(row + 1, rows.n_rows)
    return records


def _replay_row(scorer: TorchScorer, rows: Rows, row: int, request: ScoreRequest) -> RowRecord:
    start, stop = int(rows.row_offsets[row]), int(rows.row_offsets[row + 1])
    inside = (request.probe_positions >= start) & (request.probe_positions < stop)
    record = RowRecord(np.full(stop - start, np.nan, np.float32))
    if row not in request.tap_rows or request.replay is None:
        return record
    inputs = int(inside.sum())  # probe p stands for the forward position one before it: 0, 1, …
    ids = torch.from_numpy(rows.token_ids[start : start + inputs].astype(np.int64))[None]
    given = {name: _tensor(array[inside]) for name, array in request.replay.items()}

    def forward() -> torch.Tensor:
        return scorer.parts.hidden(ids.to(scorer.device), None)[0]

    last = replayed(scorer.tap, forward, given, torch.arange(inputs, device=scorer.device), record)
    if FINAL_NORM in given:
        last = given[FINAL_NORM].to(last)
    record.probe_logp = (
        log_softmax(scorer.parts.head(last), request.temperature).float().cpu().numpy()
    )
    return record


def replayed(
    tap: Tap,
    forward: Callable[[], Last],
    given: Mapping[str, torch.Tensor],
    at: torch.Tensor,
    record: RowRecord,
) -> Last:
    """What modules return for inputs of another side, put in the record; the last forward's result.

    Args:
        tap: attached to the model.
        forward: runs the model once on the sequence.
        given: `NAME:in` -> [n, D], of one sequence of n tokens.
        at: [n] forward positions, on the model's device.
        record: of the row, without hidden states.

    Raises:
        EngineError: there is no input to replay.
    """
    depths = sorted({nesting(name) for name in given if name.endswith(":in")})
    if not depths:
        raise EngineError("A replay needs the inputs of at least one module.")
    results = []
    for depth in depths:
        level = {n: t for n, t in given.items() if n.endswith(":in") and nesting(n) == depth}
        tap.start(len(at), at, level)
        results.append(forward())
        tap.keep = None
        recorded = tap.recorded()
        for name in level:
            output = recorded.get(name.removesuffix(":in"))
            if output is not None:
                record.hidden[name.removesuffix(":in")] = output.numpy()
    return results[-1]


def _tensor(array: Float32) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
