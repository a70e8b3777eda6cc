"""What the engines that run transformers models share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import torch
from torch import nn

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.captures.fingerprint import Fingerprint
from mismatch_lab.checkpoints.config import check_lengths, context_length, load_config
from mismatch_lab.checkpoints.fingerprint import fingerprint_tensors
from mismatch_lab.engines.assemble import RowRecord, assemble, local_probes
from mismatch_lab.engines.base import Progress, ScoreRequest
from mismatch_lab.engines.failures import in_words
from mismatch_lab.engines.options import TorchOptions
from mismatch_lab.engines.plugin import apply_plugin
from mismatch_lab.engines.tokenise import Tokeniser
from mismatch_lab.engines.torch_model import DTYPES, BodyAndHead, is_spread, load_model, pick_device
from mismatch_lab.engines.torch_repair import copy_tensors, disable_dropout, restore_stock
from mismatch_lab.engines.torch_replay import replay_rows
from mismatch_lab.engines.torch_score import TorchScorer
from mismatch_lab.errors import NoRoomError
from mismatch_lab.interventions import altered
from mismatch_lab.schema import OptionValue, Packing, SideSpec

IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
"""Options that transformers resolves, and keeps in its config."""


class TorchEngine:
    """A transformers model that scores rows; subclasses place it and may sample."""

    logprob_space = "processed"

    def __init__(self, spec: SideSpec, options: TorchOptions) -> None:
        self.spec = spec
        self.version = f"transformers {version('transformers')}, torch {torch.__version__}"
        self.patched: list[str] = []
        self.options: dict[str, OptionValue] = dict(vars(options))
        if options.threads:
            torch.set_num_threads(options.threads)
        torch.manual_seed(0)
        self.device = pick_device(options.device)
        self.micro_batch = options.micro_batch
        config = load_config(spec.model, spec.trust_remote_code)
        self.context_length = context_length(config)
        model = self.load(options)
        if spec.plugin:
            model = apply_plugin(spec.plugin, model, nn.Module)
            self.patched.append(f"plugin {spec.plugin}")
        if spec.stock:
            restore_stock(model, self.load(options), spec.stock)
            self.patched.append(f"put back: {', '.join(spec.stock)}")
        if spec.resync:
            copy_tensors(model, self.load(options), spec.resync)
            self.patched.append(f"loaded again: {', '.join(spec.resync)}")
        if spec.no_dropout:
            disable_dropout(model)
            self.patched.append("dropout disabled")
        own = getattr(model, "_orig_mod", model)  # a compiled module names its tensors otherwise
        self._fingerprint = self.fingerprint_of(own)
        model = self.place(model, options)
        text = config.get_text_config()
        top_k = getattr(text, "num_experts_per_tok", None) or 1
        packing: Packing = "documents" if options.packing else "none"
        self.scorer = TorchScorer(BodyAndHead(model), int(top_k), self.device, packing)
        self._tokeniser: Tokeniser | None = None
        self.options |= _implementations(own)

    @property
    def tokeniser(self) -> Tokeniser:
        """Loaded when first asked for: scoring needs none."""
        if self._tokeniser is None:
            self._tokeniser = Tokeniser(self.spec.model, self.spec.trust_remote_code)
        return self._tokeniser

    @property
    def changes_model(self) -> bool:
        """Whether something is done to the model before it is placed, which sees it on a CPU."""
        return bool(self.spec.plugin or self.spec.stock or self.spec.resync)

    def load(self, options: TorchOptions) -> nn.Module:
        """The checkpoint, untouched."""
        return load_model(self.spec, options, self.load_dtype(options))

    def load_dtype(self, options: TorchOptions) -> torch.dtype:
        """Dtype the weights are held in."""
        return DTYPES[self.spec.dtype]

    def fingerprint_of(self, model: nn.Module) -> dict[str, Fingerprint]:
        """Fingerprints of its tensors, by its own names."""
        # On the device: on 16 cores a float32 reference of 8b took 130 s to start with them, on
        # the GPU (H200) one of 20b takes 31.
        held = model.state_dict().items()
        return fingerprint_tensors((name, tensor.to(self.device)) for name, tensor in held)

    def place(self, model: nn.Module, options: TorchOptions) -> nn.Module:
        """Move the model to where it runs."""
        return model if is_spread(model) else model.to(self.device)

    def precision(self) -> AbstractContextManager[object]:
        """Entered around every pass."""
        return nullcontext()

    def score(self, rows: Rows, request: ScoreRequest, progress: Progress) -> Capture:
        """See `Engine.score`.

        Raises:
            NoRoomError: an altered model does not fit into memory; it is as it was.
        """
        try:
            return self._score(rows, request, progress)
        except torch.OutOfMemoryError as error:
            if not request.alter:
                raise
            said = in_words(error)
        torch.cuda.empty_cache()
        raise NoRoomError(f"{', '.join(a.name for a in request.alter)}: {said}")

    def _score(self, rows: Rows, request: ScoreRequest, progress: Progress) -> Capture:
        lengths = np.diff(rows.row_offsets).tolist()
        check_lengths(lengths, 0, self.context_length, self.spec.model)
        with self.precision(), altered(self.scorer.parts.model, request.alter):
            if request.replay is not None:
                records = replay_rows(self.scorer, rows, request, progress)
            else:
                records = self.records(rows, request, progress)
        ordered = [records[row] for row in range(rows.n_rows)]
        if request.replay is not None:
            _fill_missing_probes(rows, request, ordered)
        found = assemble(rows, request, ordered)
        if not request.tap_rows:
            return found
        tap = self.scorer.tap
        return replace(found, tap_order=tuple(tap.order), not_recorded=tap.unclear())

    def records(
        self, rows: Rows, request: ScoreRequest, progress: Progress
    ) -> dict[int, RowRecord]:
        """Records of all rows."""
        size = request.micro_batch or self.micro_batch
        return self.scorer.score(rows, list(range(rows.n_rows)), request, size, progress)

    def fingerprint(self) -> dict[str, Fingerprint]:
        """See `Engine.fingerprint`; taken before the weights are sharded."""
        return self._fingerprint

    def close(self) -> None:
        """Free the model."""
        del self.scorer


def _implementations(model: nn.Module) -> dict[str, OptionValue]:
    """What transformers chose where it was left to it; a version without one says nothing."""
    text = model.config.get_text_config()  # type: ignore[union-attr, operator]
    chosen = {name: getattr(text, f"_{name}", None) for name in IMPLEMENTATIONS}
    return {name: value for name, value in chosen.items() if isinstance(value, str)}


def _fill_missing_probes(rows: Rows, request: ScoreRequest, records: list[RowRecord]) -> None:
    widths = {r.probe_logp.shape[1] for r in records if r.probe_logp is not None}
    for row, record in enumerate(records):
        if record.probe_logp is None and widths:
            count = len(local_probes(rows, request.probe_positions, row))
            record.probe_logp = np.full((count, max(widths)), np.nan, np.float32)
