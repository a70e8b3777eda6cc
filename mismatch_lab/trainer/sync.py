"""Weights to the engine, by a path that is checked at every transfer and replaced where it fails.

1. The trainer writes a checkpoint; the engine takes it in place.
2. The engine's fingerprints of its tensors must be those of what was sent.
3. A few rows, scored by the engine and by the trainer, must agree as well as they did with an
   engine that was just started.
4. Where either fails, the engine is started anew on the checkpoint. A fresh engine is right by
   definition: if the rows still disagree, then trainer and engine do, not the transfer.

Of several engines each is checked, with the same rows, and only those that fail are restarted.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
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
from mismatch_lab.trainer.rollout_many import at_once

CHECK_ROWS = 8
"""In bfloat16 the mean over 4 rows of mini-gpt-oss varies threefold between samples, over 8 by a
quarter; a check on 4 restarted engines that had taken everything."""
GROWTH = 3.0
"""A disagreement this much larger than a fresh engine's fails the check."""
LEAST_NATS = {"float32": 2e-4, "bfloat16": 5e-2, "float16": 2e-2}
"""Differences below this are the dtype's: they never fail the check."""


@dataclass(frozen=True)
class SyncReport:
    """What a transfer came to; its numbers are metrics of the step."""

    tensors: int
    compared: int
    """Of the engine that could compare least."""
    stale: tuple[str, ...]
    """Of all engines."""
    abs_delta: float
    """Mean |logp_train - logp_infer| of the re-scored rows after it, nats; the worst engine's."""
    restarted: int
    """Engines that were started anew because the transfer could not be confirmed."""

    def values(self) -> dict[str, Any]:
        """As metrics of a step."""
        return {
            "sync/tensors": self.tensors,
            "sync/compared": self.compared,
            "sync/stale": len(self.stale),
            "sync/abs_delta": self.abs_delta,
            "sync/restarted": self.restarted,
        }


class Sync:
    """Keeps the engines at the trainer's weights. Rank 0 talks to them."""

    def __init__(
        self,
        config: TrainConfig,
        policy: Policy,
        engines: Sequence[Rollout],
        out: Path,
        lag_steps: int = 0,
        behind: Sequence[dict[str, Tensor]] = (),
    ) -> None:
        """Args:
        config: of the run.
        policy: whose weights they are.
        engines: none on ranks other than 0.
        out: the run's folder.
        lag_steps: a planted fault: so many updates do the engines stay behind.
        behind: of a resumed run, what `behind` was.
        """
        self.config = config
        self.policy = policy
        self.engines = engines
        self.folder = out / "weights"
        self.lag_steps = lag_steps
        self._waiting = list(behind)
        self.fresh_abs_delta = math.nan
        """The worst that any engine showed when it had just been started."""

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

    @property
    def behind(self) -> list[dict[str, Tensor]]:
        """Weights before the policy's own that engines are yet to get, oldest first."""
        return self._waiting[:-1]

    def start(self, rows: list[list[int]]) -> float:
        """Measure how well fresh engines agree; every later transfer is held against it."""
        self.fresh_abs_delta = _worst(self._disagreement(rows))
        return self.fresh_abs_delta

    def send(self, rows: list[list[int]]) -> SyncReport:
        """Bring the engines to the policy's weights, and prove it on `rows` (whole token ids)."""
        folder = self.publish()
        sent: list[Transfer] = ranks.share(at_once(self.engines, lambda e: self._give(e, folder)))
        deltas = self._disagreement(rows)
        wrong = [i for i, delta in enumerate(deltas) if sent[i].stale or not self._trusts(delta)]
        if wrong:
            at_once([self.engines[i] for i in wrong if self.engines], lambda e: e.restart(folder))
            deltas = self._disagreement(rows)
            self.fresh_abs_delta = _worst([self.fresh_abs_delta, *(deltas[i] for i in wrong)])
        return SyncReport(
            sent[0].sent,
            min(one.compared for one in sent),
            tuple(sorted({name for one in sent for name in one.stale})),
            _worst(deltas),
            len(wrong),
        )

    def _give(self, engine: Rollout, folder: Path) -> Transfer:
        sent = engine.transfer(folder)
        if self.config.rollout.flush_cache:
            engine.flush()
        return sent

    def _trusts(self, abs_delta: float) -> bool:
        """A planted lag is the fault to be seen: the check would only say that it is there."""
        return self.lag_steps > 0 or self.agrees(abs_delta)

    def agrees(self, abs_delta: float) -> bool:
        """Whether rows disagree no more than with a fresh engine. NaN does not agree."""
        limit = max(GROWTH * self.fresh_abs_delta, LEAST_NATS[self.config.dtype])
        return abs_delta <= limit

    def _disagreement(self, rows: list[list[int]]) -> list[float]:
        """Of each engine: mean |logp_train - logp_infer| of all tokens but rows' first, nats."""
        temperature = self.config.rollout.temperature
        infer = ranks.share(at_once(self.engines, lambda e: e.score(rows, temperature)))
        train = self.policy.score(_as_batch(rows)).logp
        return [_mean_abs_delta(train, logp) for logp in infer]


def _worst(deltas: list[float]) -> float:
    """NaN is worse than any number."""
    return math.nan if any(map(math.isnan, deltas)) else max(deltas)


def _mean_abs_delta(train: Tensor, infer: list[list[float]]) -> float:
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
