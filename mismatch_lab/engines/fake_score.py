"""Score one row with the fake engine's model, on its own inputs or on those of another side."""

from __future__ import annotations

import numpy as np

from mismatch_lab.captures.capture import Float32, Rows
from mismatch_lab.captures.names import FINAL_NORM, nesting
from mismatch_lab.engines.assemble import RowRecord, local_probes
from mismatch_lab.engines.base import ScoreRequest
from mismatch_lab.engines.fake_model import FakeModel, Watch
from mismatch_lab.engines.fake_numerics import TOP_K, VOCABULARY, Float64, log_softmax


def score_row(
    model: FakeModel, rows: Rows, row: int, request: ScoreRequest, temperature: float
) -> RowRecord:
    """All that the request asks for; `temperature` is the one in force."""
    ids = rows.token_ids[rows.row_offsets[row] : rows.row_offsets[row + 1]].astype(np.int64)
    before = local_probes(rows, request.probe_positions, row) - 1
    watch = Watch(keep=before if row in request.tap_rows else None)
    vocabulary = _log_probs(model, model.hidden(ids, watch), temperature)
    logp = np.full(len(ids), np.nan, np.float32)
    logp[1:] = vocabulary[np.arange(len(ids) - 1), ids[1:]]
    record = RowRecord(logp, hidden=watch.hidden)
    if len(request.probe_positions):
        record.probe_logp = vocabulary[before]
    if request.routing:
        logits = np.stack(watch.router_logits, axis=1)
        record.router_logits = logits.astype(np.float32)
        best_first = np.argsort(-logits, axis=-1, kind="stable")
        record.router_topk = best_first[..., :TOP_K].astype(np.int16)
    return record


def replay_row(model: FakeModel, rows: Rows, row: int, request: ScoreRequest) -> RowRecord:
    """As in engines/torch_replay.py: the probed prefix, every module fed the other's input."""
    start, stop = int(rows.row_offsets[row]), int(rows.row_offsets[row + 1])
    inside = (request.probe_positions >= start) & (request.probe_positions < stop)
    inputs = int(inside.sum())
    record = RowRecord(np.full(stop - start, np.nan, np.float32))
    record.probe_logp = np.full((inputs, VOCABULARY), np.nan, np.float32)
    if row in request.tap_rows and request.replay is not None:
        given = {name: array[inside] for name, array in request.replay.items()}
        ids = rows.token_ids[start : start + inputs].astype(np.int64)
        hidden = np.zeros((inputs, 0))
        for depth in sorted({nesting(name) for name in given if name.endswith(":in")}):
            level = {n: a for n, a in given.items() if n.endswith(":in") and nesting(n) == depth}
            watch = Watch(keep=np.arange(inputs), replay=level)
            hidden = model.hidden(ids, watch)
            names = [name.removesuffix(":in") for name in level]
            record.hidden |= {name: watch.hidden[name] for name in names if name in watch.hidden}
        last = given.get(FINAL_NORM, hidden).astype(np.float64)  # what the head is fed
        record.probe_logp = _log_probs(model, last, request.temperature)
    return record


def _log_probs(model: FakeModel, hidden: Float64, temperature: float) -> Float32:
    """[n, V]"""
    return log_softmax(model.head(hidden) / temperature).astype(np.float32)
