"""Watches a training run for a mismatch that is there, appears, or grows, and keeps the evidence.

    from mismatch_lab.live import MismatchMonitor

    monitor = MismatchMonitor("mismatch", model="checkpoints/step-{step}", dtype="bfloat16")
    ...
    monitor.observe(step, token_ids, mask, logp_infer, logp_train, learning_rate=lr)

Each step's measures go to the sinks, under the names that `diagnose` and the reference trainer use.
On an alarm the worst sequences are kept as captures of both sides, and the command that names the
cause is logged and written down. The loop pays for copying the arrays, a thread does the rest; no
rank asks another for anything; a fault in here is a warning, once.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mismatch_lab.live.background import CLOSE_S, Background
from mismatch_lab.live.measure import Measured, measure_step, worst_and_others
from mismatch_lab.live.recorder import KEPT_GIB
from mismatch_lab.live.sinks import Sink, check_sinks, open_sinks
from mismatch_lab.live.steps import (
    RECORDED,
    Observed,
    Step,
    StepFolder,
    Versions,
)
from mismatch_lab.live.watch import Alarm, Watch, limit_of
from mismatch_lab.schema import LogprobSpace, OptionValue

WORST_ROWS = 16
"""Sequences that an alarm keeps because they are the worst."""
KEPT_ROWS = 64
"""Sequences that it keeps in all. The others are drawn at random: with the worst alone, what
precision does by chance would look larger than it is. `diagnose` looks at 128 where nothing is
said, in minutes on a CPU for a small model."""
KEPT_ALARMS = 8
"""Alarms of which a rank keeps captures, the first ones: what began it is what is looked for."""

log = logging.getLogger("mismatch_lab.live")


class MismatchMonitor:
    """Measures what both sides say of each step's tokens, and says when something is wrong."""

    def __init__(
        self,
        folder: str | Path,
        *,
        model: str,
        dtype: str,
        rank: int = 0,
        sinks: Sequence[str] = ("jsonl",),
        limit_nats: float | None = None,
        record_every: int = 0,
        keep_gib: float = KEPT_GIB,
        engine: str = RECORDED,
        trainer: str = RECORDED,
    ) -> None:
        """Args:
        folder: for what it writes; all ranks may share it.
        model: checkpoint that the log-probs are of; `{step}` in it stands for the step's number.
        dtype: that both sides compute in; its numerics set the absolute limit.
        rank: of this process.
        sinks: names of `SINKS`.
        limit_nats: mean |delta| that is too much from the first step on, in place of the dtype's;
            0 where the engine was made bitwise equal to the trainer.
        record_every: steps between two that are kept whole, as a `Recorder` does; 0 is none.
        keep_gib: of those on disk, of this rank.
        engine: name of the program that samples; trainer: of the one that trains.

        Raises:
            InputError: an unknown sink, or a dtype without a limit.
            MissingDependencyError: what a sink needs is not installed.
        """
        check_sinks(tuple(sinks))
        self.folder, self.rank, self.model = Path(folder).absolute(), rank, model
        self.record_every = record_every
        self.alarms: list[Alarm] = []
        """Those so far, the newest last."""
        kept = int(keep_gib * 2**30)
        self._steps = StepFolder(self.folder, model, dtype, engine, trainer, kept)
        self._watch = Watch(limit_of(dtype) if limit_nats is None else limit_nats)
        self._sink_names = tuple(sinks)
        self._sinks: list[Sink] | None = None
        self._background: Background[Step] = Background(self._look, "observes")

    @property
    def left_out(self) -> int:
        """Steps that came while the thread was behind, or that it could not look at."""
        return self._background.left_out

    def observe(
        self,
        step: int,
        token_ids: Any,
        mask: Any,
        logp_infer: Any,
        logp_train: Any,
        *,
        learning_rate: float | None = None,
        versions: Versions = (None, None),
        attention_mask: Any = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        logprobs: LogprobSpace = "processed",
    ) -> None:
        """Look at a step; returns at once, and raises nothing.

        Args:
            step: of training.
            token_ids: int [R, L], prompts and answers, arrays or tensors of any device; None where
                they are not known: it then measures and alarms, and keeps no captures.
            mask: [R, L], true where the engine sampled.
            logp_infer: [R, L] nats, of the token at the same place: what the engine returned.
            logp_train: [R, L] nats: the trainer's, before this step's update.
            learning_rate: of this step's update; 0 says that no weight will change.
            versions: of the weights of the engine and of the trainer, as counts of updates; of
                the step, or of each row [R].
            attention_mask: [R, L], true for tokens, false for padding.
            temperature: of the sampling.
            top_p: of the sampling.
            logprobs: `raw` where the engine's are from before the temperature.
        """
        self.observe_made(
            lambda: Observed(
                *(step, token_ids, mask, logp_infer, logp_train, attention_mask, versions),
                *(learning_rate, temperature, top_p, logprobs),
            )
        )

    def observe_made(self, make: Callable[[], Observed]) -> None:
        """As `observe`, of what `make` puts together from a framework's own arrays.

        Args:
            make: is called unless the thread is behind; what it raises is a warning, once.
        """
        self._background.hand_over(lambda: make().copied())

    def failed(self, error: Exception) -> None:
        """Count a step that an adapter could not put together, and say it the first time."""
        self._background.failed(error)

    def flush(self) -> None:
        """Wait until all that was observed has been looked at; a loop has no need of it."""
        self._background.flush()

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Look at what waits; at the end of the program it happens by itself."""
        self._background.close(timeout_s)
        for sink in self._sinks or []:
            sink.close()
        self._sinks = []

    def _look(self, step: Step) -> None:
        step = step.answered()
        measured = measure_step(step, self._watch.freshest_lag)
        self.folder.mkdir(parents=True, exist_ok=True)
        for alarm in self._watch.update(measured.seen):
            self._raise(alarm, step, measured)
        values = measured.values | {"alarms": len(self.alarms), "steps_left_out": self.left_out}
        self._tell(step.number, values)
        if self.record_every and step.number % self.record_every == 0:
            self._steps.write(f"step-{step.number:08d}-rank-{self.rank}", step)
            self._steps.make_room(f"step-*-rank-{self.rank}")

    def _tell(self, step: int, values: dict[str, float]) -> None:
        """To every sink; one that fails is asked no more."""
        if self._sinks is None:
            self._sinks = open_sinks(self._sink_names, self.folder, self.rank)
        for sink in tuple(self._sinks):
            try:
                sink.write(step, values)
            except Exception as error:
                self._sinks.remove(sink)
                self._background.failed(error)

    def _raise(self, alarm: Alarm, step: Step, measured: Measured) -> None:
        """Keep the sequences, and say what is wrong and what to run."""
        self.alarms.append(alarm)
        captures = None
        if step.token_ids is not None and len(self.alarms) <= KEPT_ALARMS:
            by_row = measured.row_abs_delta
            chosen = worst_and_others(by_row, WORST_ROWS, KEPT_ROWS, alarm.step)
            name = f"alarm-{alarm.step:08d}-{alarm.kind}-rank-{self.rank}"
            said: dict[str, OptionValue] = {
                "alarm": alarm.kind,
                "worst_rows": min(WORST_ROWS, len(chosen)),
            }
            captures = self._steps.write(name, step.rows(chosen), said)
        command = "" if captures is None else self._command(captures, alarm.step)
        line = {
            **{"step": alarm.step, "kind": alarm.kind, "since": alarm.since},
            **{"value": alarm.value, "against": alarm.against, "text": alarm.text()},
            **{"captures": None if captures is None else str(captures), "command": command or None},
        }
        with (self.folder / f"alarms-rank-{self.rank}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        log.warning(
            "mismatch at step %d, rank %d: %s.%s",
            alarm.step,
            self.rank,
            alarm.text(),
            self._next(command, alarm.step),
        )

    def _command(self, captures: Path, step: int) -> str:
        model = self.model.replace("{step}", str(step))
        return shlex.join(["mismatch-lab", "diagnose", model, "--captures", str(captures)])

    def _next(self, command: str, step: int) -> str:
        if not command:
            return ""
        weights = (
            ""
            if "{step}" in self.model
            else (
                f"\nThe record is of the weights of step {step}: give the checkpoint nearest to it."
            )
        )
        return f" What names the cause:\n    {command}{weights}"
