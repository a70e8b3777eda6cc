"""A fake engine: numpy, deterministic, quick, with defects to plant. It tests the tool itself.

It plays engine, trainer and reference. Its model is drawn from the model's name, its tokens are
bytes; it says nothing of real engines.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.capture import Capture, Float32, Rows
from mismatch_lab.captures.fingerprint import Fingerprint, fingerprint_array
from mismatch_lab.captures.names import FINAL_NORM, nesting
from mismatch_lab.checkpoints.config import check_lengths, check_model_path
from mismatch_lab.engines.assemble import RowRecord, assemble, local_probes
from mismatch_lab.engines.base import Progress, ScoreRequest
from mismatch_lab.engines.fake_defects import (
    check_defect,
    module_changes,
    perturb_weights,
    spoil_logp,
)
from mismatch_lab.engines.fake_model import EOS, ByteTokeniser, FakeModel, Watch
from mismatch_lab.engines.fake_numerics import (
    HALF_ULP,
    TOP_K,
    VOCABULARY,
    Float64,
    draw_weights,
    log_softmax,
    seed_of,
    truncated,
)
from mismatch_lab.engines.multi_turn import sample_conversations
from mismatch_lab.engines.options import FakeOptions, parse_options
from mismatch_lab.engines.plugin import apply_plugin
from mismatch_lab.errors import InputError, NotApplicableError
from mismatch_lab.schema import OptionValue, Prompt, Sampling, SideSpec


class FakeEngine:
    """See `Engine`; plugins are handed the FakeModel."""

    logprob_space = "processed"

    def __init__(self, spec: SideSpec) -> None:
        options = parse_options(FakeOptions, "fake", spec.args)
        check_defect(options.defect)
        check_model_path(spec.model)
        if spec.dtype not in HALF_ULP:
            raise InputError(f"{spec.dtype!r} is not a dtype.", f"Known: {', '.join(HALF_ULP)}.")
        self.spec, self._options = spec, options
        self.version = f"numpy {np.__version__}"
        self.options: dict[str, OptionValue] = dict(vars(options))
        self.context_length = options.context_length
        self.patched = [f"defect {options.defect}"] if options.defect else []
        weights = draw_weights(spec.model)
        perturb_weights(weights, options.defect, options.defect_size)
        side_seed = seed_of(spec.side, options.seed)
        self.model = FakeModel(weights, spec.dtype, options.noise, side_seed)
        if spec.plugin:
            self.model = apply_plugin(spec.plugin, self.model, FakeModel)
            self.patched.append(f"plugin {spec.plugin}")
        self._passes = 0

    def generate(self, prompts: list[Prompt], sampling: Sampling, progress: Progress) -> Capture:
        """See `Engine.generate`; log-probs are of the processed distribution."""
        rng = np.random.default_rng(sampling.seed)
        self._plant(self._options.micro_batch, passes=0)

        def sample(batch: list[list[int]]) -> list[tuple[list[int], list[float]]]:
            return [self._answer(ids, sampling, rng) for ids in batch]

        capture = sample_conversations(
            prompts, ByteTokeniser(), sample, sampling.max_tokens, self.context_length,
            self.spec.model, progress,
        )  # fmt: skip
        return replace(capture, logp=spoil_logp(capture.logp, capture.rows, self._options.defect))

    def score(self, rows: Rows, request: ScoreRequest, progress: Progress) -> Capture:
        """See `Engine.score`.

        Raises:
            NotApplicableError: asked to be altered.
        """
        if request.alter or request.packing or request.routing_replay is not None:
            raise NotApplicableError("The fake engine's model cannot be altered.")
        check_lengths(np.diff(rows.row_offsets).tolist(), 0, self.context_length, self.spec.model)
        self._passes += 1
        self._plant(request.micro_batch or self._options.micro_batch, self._passes)
        forgets = self._options.defect == "temperature_raw" and self.spec.side != "infer"
        temperature = 1.0 if forgets else request.temperature
        _check_vocabulary(rows.token_ids)
        records = []
        for row in range(rows.n_rows):
            if request.replay is None:
                records.append(score_row(self.model, rows, row, request, temperature))
            else:
                records.append(replay_row(self.model, rows, row, request))
            progress(row + 1, rows.n_rows)
        capture = assemble(rows, request, records)
        order = dict.fromkeys(name for record in records for name in record.hidden)
        capture = replace(capture, tap_order=tuple(n for n in order if not n.endswith(":in")))
        return replace(capture, logp=spoil_logp(capture.logp, rows, self._options.defect))

    def fingerprint(self) -> dict[str, Fingerprint]:
        """See `Engine.fingerprint`."""
        return {name: fingerprint_array(tensor) for name, tensor in self.model.weights.items()}

    def close(self) -> None:
        """Nothing is held."""

    def _plant(self, micro_batch: int, passes: int) -> None:
        options = self._options
        self.model.changes = module_changes(
            options.defect, options.defect_size, micro_batch, passes
        )

    def _answer(
        self, ids: list[int], sampling: Sampling, rng: np.random.Generator
    ) -> tuple[list[int], list[float]]:
        _check_vocabulary(np.array(ids))
        answer: list[int] = []
        logps: list[float] = []
        while len(answer) < sampling.max_tokens and answer[-1:] != [EOS]:
            logits = self.model.head(self.model.hidden(np.array(ids + answer), Watch())[-1:])[0]
            drawn_from = truncated(log_softmax(logits / sampling.temperature), sampling.top_p)
            token = int(rng.choice(VOCABULARY, p=np.exp(drawn_from)))
            answer.append(token)
            reported = self._reported(logits, drawn_from, sampling.temperature)
            logps.append(float(reported[token]))
        return answer, logps

    def _reported(self, logits: Float64, drawn_from: Float64, temperature: float) -> Float64:
        if self._options.defect == "temperature_raw":
            return log_softmax(logits)
        if self._options.defect == "decode":
            return log_softmax(logits / temperature * (1.0 + self._options.defect_size))
        return drawn_from


def _check_vocabulary(ids: NDArray[np.integer[Any]]) -> None:
    if ((ids < 0) | (ids >= VOCABULARY)).any():
        raise InputError(f"Engine fake knows the token ids 0 to {VOCABULARY - 1} only.")


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
