"""Weights to the engine, by a path that is checked at every transfer and replaced where it fails.

1. The trainer writes a checkpoint; the engine takes it in place.
2. The engine's fingerprints of its tensors must be those of what was sent.
3. A few rows, scored by the engine and by the trainer, must agree as well as they did with an
   engine that was just started.
4. Where either fails, the engine is started anew on the checkpoint. A fresh engine is right by
   definition: if the rows still disagree, then trainer and engine do, not the transfer.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mismatch_lab.engines.checkpoint import locate
from mismatch_lab.trainer import ranks
from mismatch_lab.trainer.batch import Batch
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.policy import Policy
from mismatch_lab.trainer.rollout import Rollout, Transfer

CHECK_ROWS = 4
GROWTH = 3.0
"""A disagreement this much larger than a fresh engine's fails the check."""
LEAST_NATS = {"float32": 2e-4, "bfloat16": 5e-2, "float16": 2e-2}
"""Differences below this are the dtype's: they never fail the check."""


@dataclass(frozen=True)
class SyncReport:
    """What a transfer came to; its numbers are metrics of the step."""

    tensors: int
    compared: int
    stale: tuple[str, ...]
    abs_delta: float
    """Mean |logp_train - logp_infer| of the re-scored rows after it, nats."""
    restarted: bool
    """The engine was started anew because the transfer could not be confirmed."""

    def values(self) -> dict[str, Any]:
        """As metrics of a step."""
        return {
            "sync/tensors": self.tensors,
            "sync/compared": self.compared,
            "sync/stale": len(self.stale),
            "sync/abs_delta": self.abs_delta,
            "sync/restarted": int(self.restarted),
        }


class Sync:
    """Keeps the engine at the trainer's weights. Rank 0 talks to the engine."""

    def __init__(
        self,
        config: TrainConfig,
        policy: Policy,
        rollout: Rollout | None,
        out: Path,
        lag_steps: int = 0,
    ) -> None:
        """Args:
        config: of the run.
        policy: whose weights they are.
        rollout: the engine, on rank 0.
        out: the run's folder.
        lag_steps: a planted fault: so many updates does the engine stay behind.
        """
        self.config = config
        self.policy = policy
        self.rollout = rollout
        self.folder = out / "weights"
        self.lag_steps = lag_steps
        self._waiting: list[dict[str, Tensor]] = []
        self.fresh_abs_delta = math.nan
        """Of the last engine that was just started."""

    def publish(self) -> Path:
        """Write the policy's weights as a checkpoint with everything an engine needs beside."""
        weights = self._delayed(self.policy.weights())
        if dist.get_rank() == 0:
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True)
                _copy_tokenizer(Path(locate(self.config.model)), self.folder)
            self.policy.save_pretrained(self.folder, weights)
        return self.folder

    def _delayed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of `lag_steps` updates ago, or the oldest there are."""
        self._waiting = [*self._waiting, weights][-1 - self.lag_steps :]
        return self._waiting[0]

    def start(self, rows: list[list[int]]) -> float:
        """Measure how well a fresh engine agrees; every later transfer is held against it."""
        self.fresh_abs_delta = self._disagreement(rows)
        return self.fresh_abs_delta

    def send(self, rows: list[list[int]]) -> SyncReport:
        """Bring the engine to the policy's weights, and prove it on `rows` (whole token ids)."""
        folder = self.publish()
        sent = Transfer(0, 0, ())
        if self.rollout is not None:
            sent = self.rollout.transfer(folder)
            if self.config.rollout.flush_cache:
                self.rollout.flush()
        sent = ranks.share(sent)
        abs_delta = self._disagreement(rows)
        # A planted lag is the fault to be seen: the check would only say that it is there.
        trusted = self.lag_steps > 0 or self.agrees(abs_delta)
        restarted = bool(sent.stale) or not trusted
        if restarted:
            if self.rollout is not None:
                self.rollout.restart(folder)
            abs_delta = self.start(rows)
        return SyncReport(sent.sent, sent.compared, sent.stale, abs_delta, restarted)

    def agrees(self, abs_delta: float) -> bool:
        """Whether rows disagree no more than with a fresh engine. NaN does not agree."""
        limit = max(GROWTH * self.fresh_abs_delta, LEAST_NATS[self.config.dtype])
        return abs_delta <= limit

    def _disagreement(self, rows: list[list[int]]) -> float:
        """Mean |logp_train - logp_infer| over all tokens but the first of each row, nats."""
        infer: list[list[float]] = []
        if self.rollout is not None:
            infer = self.rollout.score(rows, self.config.rollout.temperature)
        infer = ranks.share(infer)
        train = self.policy.score(_as_batch(rows)).logp
        deltas = [
            abs(float(train[row, t]) - logp[t])
            for row, logp in enumerate(infer)
            for t in range(1, len(logp))
        ]
        return sum(deltas) / len(deltas) if deltas else math.nan


def _as_batch(rows: list[list[int]]) -> Batch:
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
    nothing = torch.zeros(ids.shape)
    return Batch(ids, lengths, nothing, nothing, torch.zeros(len(rows)))


def _copy_tokenizer(source: Path, into: Path) -> None:
    """All files of a checkpoint but its weights; a hub name's come from the tokenizer itself."""
    if source.is_dir():
        for file in source.iterdir():
            if file.is_file() and not file.name.endswith((".safetensors", ".bin", ".index.json")):
                shutil.copy(file, into / file.name)
        return
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(str(source)).save_pretrained(into)
