"""Re-score given tokens with vLLM's prefill, and read routing, hidden states and logits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mismatch_lab.captures.capture import Float32, Rows
from mismatch_lab.captures.names import renamed
from mismatch_lab.captures.structure import named_parts
from mismatch_lab.captures.taps import Split, Tap
from mismatch_lab.engines.assemble import RowRecord, local_probes
from mismatch_lab.engines.base import Progress, ScoreRequest
from mismatch_lab.engines.chunked_logp import log_softmax
from mismatch_lab.engines.vllm_routing import VllmRoutingTap
from mismatch_lab.errors import EngineError

Generate = Callable[[list[list[int]], Any], list[Any]]


class PrefillScorer:
    """One sequence per forward where anything is hooked: a hook then sees just that sequence."""

    def __init__(
        self, generate: Generate, model: Any, name: str, known: Collection[str] | None = None
    ) -> None:
        """Args: `known` are the names of transformers' parts of this model; None where it has none
        such: the engine's own are taken then.
        """
        self.generate = generate
        self.model = model
        self.name = name
        modules, splits = _as_known(model, known)
        self.tap = Tap(modules, splits, residual_layers=True)
        self.routing = VllmRoutingTap(model)
        self.logits: Tensor | None = None
        self.not_recorded: dict[str, str] = {}
        """What was asked for -> why it could not be recorded."""

    def score(self, rows: Rows, request: ScoreRequest, progress: Progress) -> list[RowRecord]:
        """Records of all rows, in order."""
        from vllm import SamplingParams

        parameters = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False
        )
        ids = [rows.token_ids[a:b].tolist() for a, b in rows.spans()]
        hooked = bool(request.tap_rows) or request.routing or len(request.probe_positions) > 0
        with ExitStack() as stack:
            stack.enter_context(self._logits_divided_and_kept(request.temperature, keep=hooked))
            if request.routing and self.routing.routers:
                stack.enter_context(self.routing.attached())
            if request.tap_rows:
                stack.enter_context(self.tap.attached())
                longest = max(ids, key=len)
                self.tap.axes.learn(
                    len(longest), lambda n: self.generate([longest[:n]], parameters)
                )
                self.not_recorded |= self.tap.unclear()
            if not hooked:
                return self._score_together(ids, parameters, request, progress)
            records = []
            for row in range(len(ids)):
                records.append(self._score_row(rows, row, ids[row], parameters, request))
                progress(row + 1, len(ids))
            return records

    def _score_together(
        self, ids: list[list[int]], parameters: Any, request: ScoreRequest, progress: Progress
    ) -> list[RowRecord]:
        size = request.micro_batch or len(ids)
        records = []
        for start in range(0, len(ids), size):
            batch = ids[start : start + size]
            outputs = self.generate(batch, parameters)
            records += [RowRecord(prompt_logp(o, i)) for o, i in zip(outputs, batch, strict=True)]
            progress(min(start + size, len(ids)), len(ids))
        return records

    def _score_row(
        self, rows: Rows, row: int, ids: list[int], parameters: Any, request: ScoreRequest
    ) -> RowRecord:
        probes = local_probes(rows, request.probe_positions, row)
        keep = torch.from_numpy(probes - 1)
        self.tap.start(len(ids), keep if row in request.tap_rows else None)
        self.routing.start(len(ids))
        self.logits = None
        output = self.generate([ids], parameters)[0]
        record = RowRecord(prompt_logp(output, ids))
        if len(request.probe_positions):
            if self.logits is None or len(self.logits) != len(ids) - 1:
                raise EngineError(f"vLLM's prompt logits of row {row} were not seen by the hook.")
            vocabulary = log_softmax(self.logits[keep.to(self.logits.device)], 1.0)
            record.probe_logp = vocabulary.float().cpu().numpy()
        if request.routing and self.routing.routers:
            routing = self.routing.stacked()
            if routing is None:
                self.not_recorded["routing"] = self.routing.unread()
            else:
                record.router_topk, record.router_logits = routing
        if row in request.tap_rows:
            record.hidden = {name: t.numpy() for name, t in self.tap.recorded().items()}
        return record

    @contextmanager
    def _logits_divided_and_kept(self, temperature: float, keep: bool) -> Iterator[None]:
        """vLLM scores prompts at temperature 1 whatever is asked (vllm #37082): divide here."""
        original = self.model.compute_logits

        def wrapped(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            logits = original(hidden, *args, **kwargs)
            if logits is None:
                return None
            scaled = logits if temperature == 1.0 else logits / temperature
            if keep:
                self.logits = scaled
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


_FUSED = {
    "qkv_proj": ["q_proj", "k_proj", "v_proj"],
    "gate_up_proj": ["gate_proj", "up_proj"],
}
"""What vLLM fuses of whatever model; each model says what else it does."""


def _as_known(
    model: Any, known: Collection[str] | None
) -> tuple[dict[str, nn.Module], dict[str, Split]]:
    """The engine's parts by transformers' names, and how to take apart what it fuses."""
    parts = named_parts(model)
    names = renamed(parts, known) if known is not None else {name: name for name in parts}
    fused = _FUSED | dict(getattr(model, "packed_modules_mapping", None) or {})
    modules: dict[str, nn.Module] = {}
    splits: dict[str, Split] = {}
    for own, module in parts.items():
        stem, _, last = own.rpartition(".")
        within = [f"{stem}.{part}" for part in fused.get(last, ())]
        if known is None or names[own] in known:
            modules[names[own]] = module
        if (known is None or names[own] not in known) and _can_split(module, within, known):
            ranks = int(getattr(module, "tp_size", 1))
            sizes = [int(size) // ranks for size in module.output_sizes]  # type: ignore[union-attr]
            modules[own], splits[own] = module, _split_by(within, sizes)
    return modules, splits


def _can_split(module: nn.Module, within: list[str], known: Collection[str] | None) -> bool:
    sizes = getattr(module, "output_sizes", ())
    named = known is None or all(part in known for part in within)
    return bool(within) and len(sizes) == len(within) and named


def _split_by(parts: list[str], sizes: list[int]) -> Split:
    return lambda fused: dict(zip(parts, torch.split(fused, sizes, dim=-1), strict=True))
