"""Hooks on SGLang's model while it scores: logits, hidden states, choices of routers."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mismatch_lab.captures.capture import Rows
from mismatch_lab.captures.names import FINAL_NORM, LAYERS, canonical_name, layer_of
from mismatch_lab.captures.structure import is_norm
from mismatch_lab.captures.taps import Tap
from mismatch_lab.engines.assemble import RowRecord
from mismatch_lab.engines.chunked_logp import over_temperature
from mismatch_lab.engines.draws import DrawsRecorder
from mismatch_lab.engines.fused_parts import as_known
from mismatch_lab.errors import EngineError

CUT = "a chunked prefill cut the row: its modules saw parts of it"


class Recorder:
    """Divides logits of prompts by the temperature, and records what it is asked to."""

    def __init__(
        self,
        model: Any,
        temperature: float,
        taps: bool = False,
        routing: bool = False,
        known: Collection[str] | None = None,
    ) -> None:
        """Args: `known` are transformers' names of the model's parts; None where it has none."""
        self.model = model
        self.temperature = temperature
        modules, splits = as_known(model, known) if taps else ({}, {})
        self.tap = Tap(modules, splits, residual_layers=True)
        self.routers = _routers(model) if routing else {}
        self.logits: list[Tensor] | None = None
        """Of one row, in the order in which SGLang makes them; None where they are not kept."""
        self.routed: dict[str, list[tuple[Tensor, Tensor, Tensor | None]]] = {}
        self._stack = ExitStack()
        self._watched: Any = None
        self._shapes: list[Any] = []

    def attach(self) -> None:
        """Hooks on."""
        self._stack.enter_context(self.tap.attached())
        for name, module in self.routers.items():
            handle = module.register_forward_hook(self._routed_by(name))
            self._stack.callback(handle.remove)
        processor = self.model.logits_processor
        original = processor._get_logits

        def divided(*args: Any, **kwargs: Any) -> Any:
            # SGLang scores prompts at temperature 1, whatever is asked of it.
            scaled = over_temperature(original(*args, **kwargs), self.temperature)
            if self.logits is not None:
                self.logits.append(scaled)
            return scaled

        processor._get_logits = divided
        self._stack.callback(processor.__dict__.pop, "_get_logits", None)

    def release(self) -> None:
        """Hooks off."""
        self._stack.close()

    def watch(self) -> None:
        """A short sequence follows, which serves to find the axes of tokens."""
        self._watched = self.tap.axes.watching()
        self._shapes.append(self._watched.__enter__())

    def watched(self) -> None:
        """It has run."""
        self._watched.__exit__(None, None, None)

    def learn(self, lengths: tuple[int, int]) -> dict[str, str]:
        """From the two sequences that were watched; module -> why it is not recorded."""
        self.tap.axes.conclude(lengths, self._shapes)
        return self.tap.unclear()

    def start(self, tokens: int, keep: NDArray[np.int64] | None) -> None:
        """A sequence of `tokens` tokens follows; hidden states are kept at `keep`."""
        self.logits, self.routed = [], {}
        self.tap.start(tokens, None if keep is None else torch.from_numpy(keep))

    def finish(
        self, rows: Rows, row: int, probes: NDArray[np.int64], draws: bool, taps: bool
    ) -> tuple[RowRecord, dict[str, str]]:
        """What was recorded of the row, but for its log-probs; and what could not be, with why."""
        tokens = int(rows.row_offsets[row + 1] - rows.row_offsets[row])
        record = RowRecord(np.full(tokens, np.nan, np.float32))
        missing: dict[str, str] = {}
        logits = self._kept(row, tokens)
        if len(probes):
            chosen = torch.log_softmax(logits[torch.from_numpy(probes - 1)], dim=-1)
            record.probe_logp = chosen.float().cpu().numpy()
        if draws:
            recorder = DrawsRecorder(rows, row, self.temperature, logits.device)
            record.draws = recorder.record_of(logits)
        if self.routers:
            record.router_topk, record.router_logits, why = self._routing(tokens)
            missing |= {"routing": why} if why else {}
        if taps:
            found = _whole_streams(self.tap.recorded(), self.tap)
            record.hidden = {name: t.numpy() for name, t in found.items()}
            if not record.hidden:
                missing["hidden states"] = CUT
        self.logits = None
        return record, missing

    def _kept(self, row: int, tokens: int) -> Tensor:
        """[n - 1, V] logits of all tokens but the first, over the temperature."""
        logits = torch.cat(self.logits) if self.logits else torch.zeros(0)
        if len(logits) < tokens - 1:
            raise EngineError(
                f"SGLang made logits at {len(logits)} of {tokens - 1} places of row {row}.",
                "A prefix from its cache is not run again: leave disable_radix_cache on.",
            )
        return logits[: tokens - 1]

    def _routed_by(self, name: str) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            ids = getattr(output, "topk_ids", None)
            if ids is not None:
                logits = getattr(output, "router_logits", None)
                logits = None if logits is None else logits.detach().clone()
                seen = (ids.detach().clone(), output.topk_weights.detach().clone(), logits)
                self.routed.setdefault(name, []).append(seen)

        return hook

    def _routing(
        self, tokens: int
    ) -> tuple[NDArray[np.int16] | None, NDArray[np.float32] | None, str]:
        """([n, L, K] choices, best first; [n, L, E] logits; why not, where there are none)."""
        chosen, weighed = [], []
        for name in self.routers:
            parts = self.routed.get(name, [])
            if sum(len(ids) for ids, _, _ in parts) != tokens:
                return None, None, f"SGLang routed inside a kernel in {name}"
            ids = torch.cat([ids for ids, _, _ in parts]).long()
            logits = [each for _, _, each in parts if each is not None]
            whole = torch.cat(logits).float() if len(logits) == len(parts) else None
            by = torch.cat([weights for _, weights, _ in parts]).float()
            by = by if whole is None else whole.gather(-1, ids)
            order = by.argsort(dim=-1, descending=True, stable=True)
            chosen.append(ids.gather(-1, order).cpu())
            weighed.append(whole)
        topk = torch.stack(chosen, 1).to(torch.int16).numpy()
        if not topk.any() and topk.shape[-1] > 1:
            return None, None, ALL_ZEROS
        known = [each for each in weighed if each is not None]
        logits_of = torch.stack(known, 1).cpu().numpy() if len(known) == len(weighed) else None
        return topk, logits_of, ""


ALL_ZEROS = (
    "the choices that it gives are all zeros: each token would choose expert 0 several times, so "
    "none were recorded"
)


def _whole_streams(recorded: dict[str, Tensor], tap: Tap) -> dict[str, Tensor]:
    """Layers that keep the residual in a boundary of theirs hand on a part of the stream: the whole
    of it goes into their first norm.
    """
    found = dict(recorded)
    aside = [
        name
        for name, module in tap.modules.items()
        if name == f"{LAYERS}.{layer_of(name)}"
        and any(attribute.endswith("boundary") for attribute in vars(module))
    ]
    for layer in aside:
        norms = [n for n in tap.order if n.startswith(f"{layer}.") and is_norm(tap.modules[n])]
        if norms and f"{norms[0]}:in" in recorded:
            found[f"{layer}:in"] = recorded[f"{norms[0]}:in"]
    for layer in aside:
        following = f"{LAYERS}.{(layer_of(layer) or 0) + 1}:in"
        after = found.get(following, recorded.get(f"{FINAL_NORM}:in"))
        if after is not None:
            found[layer] = after
    return found


def _routers(model: Any) -> dict[str, Any]:
    """Modules that choose experts, by canonical name of their block, in order."""
    return {
        canonical_name(name): module
        for name, module in model.named_modules()
        if type(module).__name__ == "TopK"
    }
