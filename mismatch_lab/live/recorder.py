"""Three lines in anybody's training loop that keep what `diagnose --captures` needs.

    from mismatch_lab.live import Recorder

    recorder = Recorder("recorded", model="checkpoints/step-0", dtype="bfloat16")
    ...
    recorder.record(step, token_ids, mask, logp_infer, logp_train)

What it writes is a capture of each side in a folder of the step and rank, whole or not at all. A
fault in it is a warning, once: it never stops a run. It writes in a thread of its own; what comes
while that is behind is left out and counted, never waited for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mismatch_lab.live.background import CLOSE_S, Background
from mismatch_lab.live.steps import RECORDED, Observed, Step, StepFolder, Versions
from mismatch_lab.schema import LogprobSpace

KEPT_GIB = 2.0
"""What recordings may take on disk where nothing else is said; the oldest go first."""


class Recorder:
    """Writes what both sides say of a step's tokens, from every rank that calls it."""

    def __init__(
        self,
        folder: str | Path,
        *,
        model: str,
        dtype: str,
        every: int = 1,
        rank: int = 0,
        keep_gib: float = KEPT_GIB,
        engine: str = RECORDED,
        trainer: str = RECORDED,
    ) -> None:
        """Args:
        folder: where steps are written, as `step-STEP-rank-RANK/`.
        model: checkpoint that the log-probs are of, for the record.
        dtype: that both sides compute in.
        every: steps between two that are kept.
        rank: of this process.
        keep_gib: on disk, of this rank; the oldest steps are removed.
        engine: name of the program that samples; trainer: of the one that trains.
        """
        self.folder, self.every, self.rank = Path(folder), every, rank
        kept = int(keep_gib * 2**30)
        self._steps = StepFolder(self.folder, model, dtype, engine, trainer, kept)
        self._background: Background[Step] = Background(self._write, "records")

    @property
    def left_out(self) -> int:
        """Steps that came while the writer was behind, or that it could not write."""
        return self._background.left_out

    def record(
        self,
        step: int,
        token_ids: Any,
        mask: Any,
        logp_infer: Any,
        logp_train: Any,
        *,
        attention_mask: Any = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        logprobs: LogprobSpace = "processed",
        versions: Versions = (None, None),
        packed_rows: Any = None,
    ) -> None:
        """Keep a step; returns at once, and raises nothing.

        Args:
            step: of training.
            token_ids: int [R, L], prompts and answers; arrays or tensors of any device.
            mask: [R, L], true where the engine sampled.
            logp_infer: [R, L] nats, of the token at the same place: what the engine returned.
            logp_train: [R, L] nats: the trainer's, before this step's update.
            attention_mask: [R, L], true for tokens, false for padding.
            temperature: of the sampling.
            top_p: of the sampling.
            logprobs: `raw` where the engine's are from before the temperature.
            versions: of the weights of the engine and of the trainer, or of each row's [R].
            packed_rows: int [R], where the trainer packs: the number of the packed row that each
                sequence lay in, sequences of one in their order; -1 where it is not known.
        """
        if step % self.every == 0:
            self._background.hand_over(
                Observed(
                    *(step, token_ids, mask, logp_infer, logp_train, attention_mask, versions),
                    *(None, temperature, top_p, logprobs, packed_rows),
                ).copied
            )

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Write what waits; at the end of the program it happens by itself."""
        self._background.close(timeout_s)

    def _write(self, step: Step) -> None:
        self._steps.write(f"step-{step.number:08d}-rank-{self.rank}", step)
        self._steps.make_room(f"step-*-rank-{self.rank}")
