"""Re-score given tokens with vLLM's prefill, and read routing, hidden states and logits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mismatch_lab.captures.capture import Float32, Rows
from mismatch_lab.captures.taps import Tap
from mismatch_lab.engines.assemble import RowRecord, local_probes
from mismatch_lab.engines.base import Progress, ScoreRequest
from mismatch_lab.engines.chunked_logp import over_temperature
from mismatch_lab.engines.draws import DrawsRecorder
from mismatch_lab.engines.fused_parts import as_known
from mismatch_lab.engines.vllm_routing import VllmRoutingTap
from mismatch_lab.errors import EngineError

Generate = Callable[[list[list[int]], Any], list[Any]]


class PrefillScorer:
    """One sequence per forward where anything is hooked: a hook then sees just that sequence.

    vLLM takes no prompt that fills its context, since it always samples a token behind it. Of such
    a row it is given all but the last token, whose log-prob is that of the distribution which vLLM
    samples from: no position is run that the model does not have. A larger `max_model_len` would
    be another model: rotary factors of LongRoPE (Phi-3) depend on it (vLLM 0.32).
    """

    def __init__(
        self,
        generate: Generate,
        model: Any,
        name: str,
        context_length: int,
        known: Collection[str] | None = None,
    ) -> None:
        """Args: `known` are the names of transformers' parts of this model; None where it has none
        such: the engine's own are taken then.
        """
        self.generate = generate
        self.model = model
        self.name = name
        self.context_length = context_length
        modules, splits = as_known(model, known)
        self.tap = Tap(modules, splits, residual_layers=True)
        self.routing = VllmRoutingTap(model)
        self.logits: list[Tensor] | None = None
        """Of one row, in the order in which vLLM asks for them: of the token that it samples, then
        of the prompt. None where they are not kept."""
        self.not_recorded: dict[str, str] = {}
        """What was asked for -> why it could not be recorded."""

    def score(self, rows: Rows, request: ScoreRequest, progress: Progress) -> list[RowRecord]:
        """Records of all rows, in order."""
        from vllm import SamplingParams

        parameters = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False
        )
        ids = [rows.token_ids[a:b].tolist() for a, b in rows.spans()]
        whole = len(request.probe_positions) > 0 or request.draws
        hooked = bool(request.tap_rows) or request.routing or whole
        alone = [r for r, row in enumerate(ids) if hooked or len(row) >= self.context_length]
        together = sorted({*range(len(ids))} - {*alone})
        records: dict[int, RowRecord] = {}
        with ExitStack() as stack:
            stack.enter_context(self._logits_divided_and_kept(request.temperature))
            if request.routing and self.routing.routers:
                stack.enter_context(self.routing.attached())
            if request.tap_rows:
                stack.enter_context(self.tap.attached())
                longest = max(ids, key=len)
                self.tap.axes.learn(
                    len(longest), lambda n: self.generate([longest[:n]], parameters)
                )
                self.not_recorded |= self.tap.unclear()
            size = request.micro_batch or max(len(together), 1)
            for start in range(0, len(together), size):
                batch = together[start : start + size]
                outputs = self.generate([ids[row] for row in batch], parameters)
                for row, output in zip(batch, outputs, strict=True):
                    records[row] = RowRecord(prompt_logp(output, ids[row]))
                progress(len(records), len(ids))
            for row in alone:
                records[row] = self._score_row(rows, row, ids[row], parameters, request)
                progress(len(records), len(ids))
            self.logits = None
        return [records[row] for row in range(len(ids))]

    def _score_row(
        self, rows: Rows, row: int, ids: list[int], parameters: Any, request: ScoreRequest
    ) -> RowRecord:
        fills = len(ids) >= self.context_length
        prompt = ids[:-1] if fills else ids
        probes = local_probes(rows, request.probe_positions, row)
        keep = torch.from_numpy(probes - 1)
        self.tap.start(len(prompt), keep if row in request.tap_rows else None)
        self.routing.start(len(prompt))
        self.logits = []
        output = self.generate([prompt], parameters)[0]
        record = RowRecord(prompt_logp(output, prompt))
        if fills:
            last = torch.log_softmax(self._kept(row, ids)[-1], dim=-1)[ids[-1]]
            record.logp = np.append(record.logp, np.float32(last.item()))
        if len(request.probe_positions):
            logits = self._kept(row, ids)
            vocabulary = torch.log_softmax(logits[keep.to(logits.device)], dim=-1)
            record.probe_logp = vocabulary.cpu().numpy()
        if request.draws:
            logits = self._kept(row, ids)
            recorder = DrawsRecorder(rows, row, request.temperature, logits.device)
            record.draws = recorder.record_of(logits)
        if request.routing and self.routing.routers:
            routing = self.routing.stacked()
            if routing is None:
                self.not_recorded["routing"] = self.routing.unread()
            else:
                chosen, weighed = routing
                if fills:  # nothing was chosen where the last token is the input
                    chosen = _one_more(chosen, -1)
                    weighed = None if weighed is None else _one_more(weighed, np.nan)
                record.router_topk, record.router_logits = chosen, weighed
        if row in request.tap_rows:
            record.hidden = {name: t.numpy() for name, t in self.tap.recorded().items()}
        return record

    def _kept(self, row: int, ids: list[int]) -> Tensor:
        """[n - 1, V] logits of all tokens but the first, in fp32 and over the temperature."""
        fills = len(ids) >= self.context_length
        kept = self.logits or []
        parts = [*kept[-1:], *kept[:1]] if fills else kept[-1:]
        if sum(map(len, parts)) != len(ids) - 1:
            raise EngineError(f"vLLM's prompt logits of row {row} were not seen by the hook.")
        return torch.cat(parts) if fills else parts[0]

    @contextmanager
    def _logits_divided_and_kept(self, temperature: float) -> Iterator[None]:
        """vLLM scores prompts at temperature 1 whatever is asked (vllm #37082): divide here."""
        original = self.model.compute_logits

        def wrapped(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            logits = original(hidden, *args, **kwargs)
            if logits is None:
                return None
            # As vLLM's own sampler does: wide first, then divided.
            scaled = over_temperature(logits, temperature)
            if self.logits is not None:
                self.logits.append(scaled)
            return scaled

        self.model.compute_logits = wrapped
        try:
            yield
        finally:
            self.model.compute_logits = original


def prompt_logp(output: Any, ids: list[int]) -> Float32:
    """[n] log-probs of a prompt's own tokens; the first has none."""
    steps = output.prompt_logprobs
    if steps is None or len(steps) != len(ids):
        raise EngineError(
            f"vLLM returned {len(steps or [])} prompt log-probs for {len(ids)} tokens."
        )
    logp = np.full(len(ids), np.nan, np.float32)
    for position in range(1, len(ids)):
        if ids[position] not in steps[position]:
            raise EngineError(f"vLLM returned no log-prob for prompt token {position}.")
        logp[position] = steps[position][ids[position]].logprob
    return logp


def _one_more(array: NDArray[Any], value: float) -> NDArray[Any]:
    """With another entry on the first axis."""
    return np.concatenate([array, np.full_like(array[:1], value)])
