"""A run on one screen of the terminal, while it goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from mismatch_lab.report.screen import Screen
from mismatch_lab.trainer import dashboard_lines as lines
from mismatch_lab.trainer.comparison.curves import Rows
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.dashboard_table import table
from mismatch_lab.trainer.planting import plan_run
from mismatch_lab.trainer.watcher import Watcher

START = "starting the engine"
WAITED_FOR = {
    "warm-up": "the model is taught the form of the task",
    "eval": "the held-out problems",
    "rollout": "the engine samples",
    "score": "the trainer's log-probs",
    "update": "gradients and the optimizer",
    "sync": "weights to the engine, and a check of them",
    "measure": "the step's mismatch",
    "checkpoint": "weights and optimizer to the disk",
}
BELOW = 2
"""Lines that stay free for what is printed after the run, and the prompt."""
LEAST_TABLE = 4
"""Lines; with fewer for it, what stands below it goes."""
REFRESHES_PER_S = 4


class Dashboard(Watcher):
    """Draws itself anew a few times a second, in a thread; the last frame stays on the screen.

    The thread sees whole states only: `_rows` and `_phase` are replaced, never changed.
    """

    def __init__(
        self,
        config: TrainConfig,
        console: Console,
        history: Iterable[Mapping[str, Any]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        config: of the run.
        console: a terminal.
        history: of a run that is resumed: the lines of its metrics.
        clock: seconds.
        """
        self.config = config
        self.lags = plan_run(config).lag_steps > 0
        self._rows: Rows = tuple(history)
        self._clock = clock
        self._began_s = clock()
        self._phase = (START, self._began_s)
        self._ended: tuple[str, float] | None = None
        """In a word, and when."""
        self._drawn: tuple[Rows, tuple[int, Screen], list[Text]] | None = None
        self._live = Live(self, console=console, refresh_per_second=REFRESHES_PER_S)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stopped = "interrupted" if kind is KeyboardInterrupt else "failed"
        self._ended = (stopped if kind else "finished", self._clock())
        self._live.stop()

    def begin(self, step: int) -> None:
        """Later steps are made anew."""
        self._rows = self._before(step)
        self.phase(START)

    def phase(self, name: str) -> None:
        """Show what is waited for."""
        if name != self._phase[0]:
            self._phase = (name, self._clock())

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """Show the step's values; those of an earlier try at it, and after it, are gone."""
        self._rows = (*self._before(step), {**values, "step": step})

    def _before(self, step: int) -> tuple[Mapping[str, Any], ...]:
        return tuple(row for row in self._rows if row["step"] < step)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        screen = Screen(options.max_width, console.height, console.encoding)
        yield from self.frame(screen)

    def frame(self, screen: Screen) -> list[Text]:
        """The lines to show now, so many that `BELOW` stay free."""
        room, rows = max(1, screen.height - BELOW), self._rows
        now_s = self._ended[1] if self._ended else self._clock()
        elapsed_s = now_s - self._began_s
        top = [
            *lines.heading(self.config, screen),
            lines.progress(self.config.steps, rows, elapsed_s, self._ended is not None, screen),
            self._phase_line(now_s, screen),
        ]
        return [*top, *self._below(rows, room - len(top), screen)][:room]

    def _phase_line(self, now_s: float, screen: Screen) -> Text:
        name, since_s = self._phase
        text, style = f"{name}, {lines.duration(now_s - since_s)}", ""
        if self._ended:
            word = self._ended[0]
            done = word == "finished"
            text, style = (word, "green") if done else (f"{word} at: {text}", "red")
        elif name in WAITED_FOR:
            text += f" ({WAITED_FOR[name]})"
        return lines.phase(text, style, screen)

    def _below(self, rows: Rows, room: int, screen: Screen) -> list[Text]:
        """What follows from the steps; made once for each, not at every refresh."""
        drawn = self._drawn
        if drawn is None or drawn[0] is not rows or drawn[1] != (room, screen):
            drawn = self._drawn = (rows, (room, screen), self._made(rows, room, screen))
        return drawn[2]

    def _made(self, rows: Rows, room: int, screen: Screen) -> list[Text]:
        last = [
            *lines.transfers(rows, self.lags, screen),
            *lines.left_out(rows, screen),
            *lines.shares(rows, screen),
        ]
        last = last[: max(0, room - LEAST_TABLE)]
        metrics = table(rows, room - len(last), screen)
        if metrics and len(metrics) + len(last) + 2 <= room:
            return [Text(), *metrics, Text(), *last]
        return [*metrics, *last]
