"""Weights to the engine, by a path that is checked at every transfer and replaced where it fails.

1. The trainer writes a checkpoint; the engine takes it in place.
2. What the engine's kernels read must be what was sent, bit for bit and every tensor of it.
3. Rows of the step, scored by both sides before and after, must not say that the engine kept the
   old weights, and the sides must agree as well as they did (`row_check`).
4. Where either fails, the engine is started anew on the checkpoint. What it then holds is compared
   once more, as at the start of a run: an engine that does not hold what it was started on ends it.

Of several engines each is checked, with the same rows, and only those that fail are restarted.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from mismatch_lab.checkpoints.config import resolve_model_path
from mismatch_lab.errors import EngineError
from mismatch_lab.trainer import ranks
from mismatch_lab.trainer.batch import Batch
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.policy import Policy
from mismatch_lab.trainer.rollout import Rollout, Transfer
from mismatch_lab.trainer.rollout_many import at_once
from mismatch_lab.trainer.row_check import Float, RowCheck, Scored, check_rows, chosen_rows

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class SyncReport:
    """What a transfer came to; its numbers are metrics of the step."""

    tensors: int
    compared: int
    """Of the engine that could compare least."""
    stale: tuple[str, ...]
    """Tensors that an engine held otherwise before it was started anew, of all engines."""
    uncompared: tuple[str, ...]
    rows: RowCheck
    """Of the engine that agrees least after it."""
    why_restarted: tuple[str, ...]
    """Of each engine that was started anew because the transfer could not be confirmed."""

    def values(self) -> dict[str, Any]:
        """As metrics of a step."""
        values: dict[str, Any] = {
            "sync/tensors": self.tensors,
            "sync/compared": self.compared,
            "sync/stale": len(self.stale),
            "sync/abs_delta": self.rows.abs_delta,
            "sync/abs_delta_before": self.rows.abs_delta_before,
            "sync/rows": self.rows.rows,
            "sync/rows_old": self.rows.rows_old,
            "sync/rows_kept": self.rows.rows_kept,
            "sync/rows_worse": self.rows.rows_worse,
            "sync/restarted": len(self.why_restarted),
        }
        if self.why_restarted:
            values["sync/why_restarted"] = "; ".join(self.why_restarted)
        return values


class Sync:
    """Keeps the engines at the trainer's weights. Rank 0 talks to them."""

    def __init__(
        self,
        config: TrainConfig,
        policy: Policy,
        engines: Sequence[Rollout],
        out: Path,
        lag_steps: int = 0,
        behind: Sequence[Weights] = (),
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
        self._published: Weights = {}

    def begin(self, resumed: bool) -> None:
        """Hold what fresh engines have against the policy's weights.

        Args:
            resumed: the engines have started on other weights than the policy's.

        Raises:
            EngineError: an engine holds others, or what is published is not the whole model.
        """
        weights = self.policy.weights()
        folder = self._write(self._delayed(weights) if resumed else weights)
        if resumed:
            at_once(self.engines, lambda engine: engine.restart(folder))
        self._verify(folder, self.engines)

    def send(self, batch: Batch, logp_before: Tensor) -> SyncReport:
        """Bring the engines to the policy's weights, and prove it.

        Args:
            batch: of the step.
            logp_before: [R, n] the trainer's before the update.

        Raises:
            EngineError: an engine that was started anew does not hold what it was started on.
        """
        rows = chosen_rows(batch.lengths.numpy())
        checked = batch.take(rows)
        before, train_before = self._scores(checked), _cut(logp_before[rows], checked)
        weights = self._delayed(self.policy.weights())
        moved = self._differs(weights)
        folder = self._write(weights)
        sent: list[Transfer] = ranks.share(at_once(self.engines, lambda e: self._give(e, folder)))
        train_after = _cut(self.policy.score(checked).logp, checked)

        def look() -> list[RowCheck]:
            return [
                check_rows(
                    Scored(train_before, infer_before),
                    Scored(train_after, infer_after),
                    checked.mask.numpy() > 0,
                    self.config.dtype,
                )
                for infer_before, infer_after in zip(before, self._scores(checked), strict=True)
            ]

        seen = look()
        why = [self._why_not(*found, moved) for found in zip(sent, seen, strict=True)]
        failed = [index for index, reason in enumerate(why) if reason]
        if failed:
            anew = [self.engines[index] for index in failed if self.engines]
            at_once(anew, lambda engine: engine.restart(folder))
            self._verify(folder, anew)
            seen = look()
        return SyncReport(
            sent[0].sent,
            min(one.compared for one in sent),
            tuple(sorted({name for one in sent for name in one.stale})),
            tuple(sorted({name for one in sent for name in one.uncompared})),
            max(seen, key=lambda one: math.inf if math.isnan(one.abs_delta) else one.abs_delta),
            tuple(why[index] for index in failed),
        )

    @property
    def behind(self) -> list[Weights]:
        """Weights before the policy's own that engines are yet to get, oldest first."""
        return self._waiting[:-1]

    def _why_not(self, sent: Transfer, rows: RowCheck, moved: bool) -> str:
        """What speaks against a transfer, in words; empty where nothing does."""
        if not sent.confirmed:
            return sent.why_not
        if self.lag_steps:  # planted, to be seen: rows would only say that it is there
            return ""
        if rows.answer == "old" and moved:
            return f"log-probs are those of the old weights in {rows.rows} rows"
        if not rows.agrees:
            return f"disagrees by {rows.abs_delta:.2g} nats, before by {rows.abs_delta_before:.2g}"
        return ""

    def _verify(self, folder: Path, engines: Sequence[Rollout]) -> None:
        """A planted fault may be one of weights: then there is nothing to be confirmed."""
        found = ranks.share(at_once(engines, lambda engine: engine.verify(folder)))
        wrong = [one.why_not for one in found if not one.confirmed]
        if wrong and not self.config.faults:
            raise EngineError(
                f"An engine that was just started does not hold the trainer's weights: {wrong[0]}.",
                f"They are in {folder}. What it samples is another policy's; quantised engines "
                "cannot be compared.",
            )

    def _delayed(self, weights: Weights) -> Weights:
        """The weights of `lag_steps` updates ago, or the oldest there are."""
        self._waiting = [*self._waiting, weights][-1 - self.lag_steps :]
        return self._waiting[0]

    def _differs(self, weights: Weights) -> bool:
        """Whether an update changed what is published; where nobody learnt, rows say nothing."""
        old = self._published
        return bool(ranks.share(any(not torch.equal(old[n], weights[n]) for n in weights)))

    def _write(self, weights: Weights) -> Path:
        """Write a checkpoint with everything beside that an engine needs."""
        self._published = weights
        if dist.get_rank() == 0:
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True)
                _copy_tokenizer(Path(resolve_model_path(self.config.model)), self.folder)
            self.policy.save_pretrained(self.folder, weights)
        return self.folder

    def _give(self, engine: Rollout, folder: Path) -> Transfer:
        sent = engine.transfer(folder)
        if self.config.rollout.flush_cache:
            engine.flush()
        return sent

    def _scores(self, checked: Batch) -> list[Float]:
        """[R, n] of each engine; NaN where a row has no such token."""
        temperature = self.config.rollout.temperature
        ids = [
            row[:length]
            for row, length in zip(checked.ids.tolist(), checked.lengths.tolist(), strict=True)
        ]
        scored = ranks.share(at_once(self.engines, lambda e: e.score(ids, temperature)))
        return [_laid_out(rows, checked.ids.shape[1]) for rows in scored]


def _laid_out(rows: list[list[float]], width: int) -> Float:
    laid = np.full((len(rows), width), np.nan)
    for index, row in enumerate(rows):
        laid[index, : len(row)] = row
    return laid


def _cut(logp: Tensor, checked: Batch) -> Float:
    found: Float = logp[:, : checked.ids.shape[1]].double().numpy()
    return found


def _copy_tokenizer(source: Path, into: Path) -> None:
    """All files of a checkpoint but its weights; a hub name's come from the tokenizer itself."""
    if source.is_dir():
        for file in source.iterdir():
            if file.is_file() and not file.name.endswith((".safetensors", ".bin", ".index.json")):
                shutil.copy(file, into / file.name)
        return
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(str(source)).save_pretrained(into)
