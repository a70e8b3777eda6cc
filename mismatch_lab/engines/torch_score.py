"""Score rows with a transformers model: log-probs, full-vocabulary probes, routing, taps."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from mismatch_lab.captures.capture import Rows
from mismatch_lab.captures.structure import named_parts
from mismatch_lab.captures.taps import Tap
from mismatch_lab.engines.assemble import RowRecord, local_probes
from mismatch_lab.engines.base import Progress, ScoreRequest
from mismatch_lab.engines.chunked_logp import log_softmax, token_logp
from mismatch_lab.engines.draws import DrawsRecorder
from mismatch_lab.engines.torch_batch import lay_out
from mismatch_lab.engines.torch_model import BodyAndHead
from mismatch_lab.engines.torch_routing import RoutingTap
from mismatch_lab.engines.torch_routing_replay import RoutingReplay
from mismatch_lab.interventions.cache import prompts_of
from mismatch_lab.schema import Packing


class TorchScorer:
    """Scores rows in micro-batches, padded on the right."""

    def __init__(
        self,
        parts: BodyAndHead,
        top_k: int,
        device: torch.device,
        packing: Packing = "none",
        gradients: bool = False,
    ) -> None:
        """Args: with `gradients` passes in training mode record what an update's forward does."""
        self.parts = parts
        self.gradients = gradients
        self.packing = packing
        self.device = device
        self.routing = RoutingTap(parts.model, top_k)
        self.tap = Tap(named_parts(parts.model))
        self._follow: RoutingReplay | None = None
        self._knows_axes = False

    def learn_axes(self, rows: Rows) -> None:
        """Find out, once, which axes the tap must take for the tokens."""
        if self._knows_axes:
            return
        self._knows_axes = True
        stop = int(rows.row_offsets[np.argmax(np.diff(rows.row_offsets)) + 1])
        length = int(np.diff(rows.row_offsets).max())
        ids = torch.from_numpy(rows.token_ids[stop - length : stop].astype(np.int64))[None]
        with torch.no_grad(), self.tap.attached():
            self.tap.axes.learn(
                length, lambda n: self.parts.hidden(ids[:, :n].to(self.device), None)
            )

    def score(
        self,
        rows: Rows,
        chosen_rows: list[int],
        request: ScoreRequest,
        micro_batch: int,
        progress: Progress,
    ) -> dict[int, RowRecord]:
        """Records of the chosen rows. Hidden states are tapped one row at a time."""
        tapped = [row for row in chosen_rows if row in request.tap_rows]
        single = {*request.tap_rows, *request.alone_rows}
        others = [row for row in chosen_rows if row not in single]
        batches = [[row for row in pack if row in others] for pack in request.packs]
        unpacked = [row for row in others if not any(row in pack for pack in request.packs)]
        step = 1 if request.packs else micro_batch
        batches += [unpacked[i : i + step] for i in range(0, len(unpacked), step)]
        batches = [batch for batch in batches if batch]
        batches += [[row] for row in chosen_rows if row in single - {*tapped}]
        records: dict[int, RowRecord] = {}
        if tapped:
            self.learn_axes(rows)
        self.parts.model.train(request.train_mode)
        with torch.no_grad(), ExitStack() as stack:
            stack.callback(self.parts.model.eval)
            if request.routing and self.routing.routers:
                stack.enter_context(self.routing.attached())
            self._follow = None
            if request.routing_replay is not None:
                self._follow = RoutingReplay(self.routing.routers, request.routing_replay)
                stack.enter_context(self._follow.attached())
            for batch in batches:
                records |= self._score_batch(rows, batch, request)
                progress(len(records), len(chosen_rows))
            if tapped:
                stack.enter_context(self.tap.attached())
            for row in tapped:
                records |= self._score_batch(rows, [row], request)
                progress(len(records), len(chosen_rows))
        return records

    def _score_batch(
        self, rows: Rows, batch: list[int], request: ScoreRequest
    ) -> dict[int, RowRecord]:
        tapped = batch[0] in request.tap_rows
        packing = request.packing or self.packing
        inputs = lay_out(rows, batch, packing, self.device)
        if self._follow is not None:
            self._follow.place(rows, batch, inputs)
        if tapped:
            keep = torch.from_numpy(local_probes(rows, request.probe_positions, batch[0]) - 1)
            self.tap.start(inputs.ids.shape[1], keep.to(self.device))
        lengths = torch.from_numpy(rows.prompt_lengths[batch]) if packing == "none" else None
        gradients = self.gradients and request.train_mode
        with torch.set_grad_enabled(gradients), prompts_of(lengths):
            hidden = self.parts.hidden(inputs.ids, inputs.mask, inputs.positions).detach()
        routing = self._routing(request, inputs.ids.shape)
        if tapped:
            self.tap.keep = None  # the head's own forwards are not of this sequence
        records = {
            row: self._record(
                rows,
                row,
                inputs.ids[i, start:stop],
                hidden[i, start:stop],
                request,
                None if routing is None else (routing[0][i, start:stop], routing[1][i, start:stop]),
            )
            for row, (i, start, stop) in zip(batch, inputs.places, strict=True)
        }
        if packing != "none":
            for place, row in enumerate(batch):
                records[row].pack = (batch[0], place)
        return records

    def _routing(self, request: ScoreRequest, shape: torch.Size) -> tuple[Tensor, Tensor] | None:
        if not (request.routing and self.routing.routers):
            return None
        chosen, logits = self.routing.stacked()
        return (
            chosen.reshape(*shape, *chosen.shape[1:]),
            logits.reshape(*shape, *logits.shape[1:]),
        )

    def _record(
        self,
        rows: Rows,
        row: int,
        ids: Tensor,
        hidden: Tensor,
        request: ScoreRequest,
        routing: tuple[Tensor, Tensor] | None,
    ) -> RowRecord:
        recorder = None
        if request.draws:
            recorder = DrawsRecorder(rows, row, request.temperature, self.device)
        watch = None if recorder is None else recorder.watch
        found = token_logp(self.parts.head, hidden[:-1], ids[1:], request.temperature, watch)
        logp = np.full(len(ids), np.nan, np.float32)
        logp[1:] = found.float().cpu().numpy()
        record = RowRecord(logp, draws=None if recorder is None else recorder.record())
        probes = local_probes(rows, request.probe_positions, row)
        if len(request.probe_positions):
            at = torch.from_numpy(probes - 1).to(self.device)
            logits = self.parts.head(hidden[at])
            vocabulary = log_softmax(logits, request.temperature)
            record.probe_logp = vocabulary.float().cpu().numpy()
            wide = logits.to(torch.float64) / request.temperature
            record.probe_lse = wide.logsumexp(-1).float().cpu().numpy()
        if routing is not None:
            record.router_topk = routing[0][: len(ids)].numpy()
            record.router_logits = routing[1][: len(ids)].numpy()
        if row in request.tap_rows:
            record.hidden = {name: t.numpy() for name, t in self.tap.recorded().items()}
        return record
