"""Lines of the dashboard: what runs, how far it is, whether the engine has the weights, the time.

`rows` are the lines of `metrics.jsonl` as far as the run has come; see `metrics.py`.
"""

from __future__ import annotations

import math

from rich.text import Text

from mismatch_lab.report.screen import Screen
from mismatch_lab.trainer.comparison.curves import Rows, series
from mismatch_lab.trainer.config import TrainConfig

LABEL = 9
"""Columns of the word that a line begins with."""
BAR = 40
"""At most so many."""
ESTIMATE_STEPS = 10
"""Time that is left is estimated from the last steps."""


def heading(config: TrainConfig, screen: Screen) -> list[Text]:
    """What is trained; and what is wrong with it or mended, where anything is."""
    model = config.model.rstrip("/").rpartition("/")[2] or config.model
    about = f"{model}, {config.rollout.engine}, {config.dtype}"
    lines = [screen.line((_label("train"), "dim"), (config.task, "bold"), (f"  {about}", ""))]
    parts: list[tuple[str, str]] = []
    for word, names, style in (("faults", config.faults, "red"), ("fixes", config.fixes, "green")):
        if names:
            parts += [("  " if parts else "", ""), (_label(word), "dim"), (", ".join(names), style)]
    return [*lines, screen.line(*parts)] if parts else lines


def progress(steps: int, rows: Rows, elapsed_s: float, ended: bool, screen: Screen) -> Text:
    """`step     12/24 ━━━━━─────  2 min 05 s, about 2 min 10 s left`."""
    made = min(rows[-1]["step"] + 1, steps) if rows else 0
    count, time = f"{made}/{steps} ", f"  {duration(elapsed_s)}"
    left_s = (steps - made) * mean_step_s(rows)
    if not ended and left_s > 0:
        time += f", about {duration(left_s)} left"
    length = max(0, min(BAR, screen.width - LABEL - len(count) - len(time)))
    done = length * made // steps
    bar = [("━" * done, "green"), ("─" * (length - done), "dim")]
    return screen.line((_label("step"), "dim"), (count, "bold"), *bar, (time, ""))


def mean_step_s(rows: Rows) -> float:
    """Of the last steps; NaN before the first."""
    # The last line of a run has no time: it is of the held-out problems alone.
    found = list(series(rows[-ESTIMATE_STEPS - 1 :], "seconds/step").values())[-ESTIMATE_STEPS:]
    return sum(found) / len(found) if found else math.nan


def duration(seconds: float) -> str:
    """`5 s`, `3 min 05 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def phase(text: str, style: str, screen: Screen) -> Text:
    """What is being waited for, or how it ended."""
    return screen.line((_label("phase"), "dim"), (text, style))


def transfers(rows: Rows, lags: bool, screen: Screen) -> list[Text]:
    """What the last transfer of weights came to; nothing before the first.

    Args:
        rows: of the run.
        lags: a planted fault keeps the engine behind, and nothing is confirmed.
        screen: where it is shown.
    """
    last = next((row for row in reversed(rows) if "sync/tensors" in row), None)
    if last is None:
        return []
    restarts = int(sum(series(rows, "sync/restarted").values()))
    if last["sync/restarted"]:
        outcome, style = "not confirmed", "yellow"
    elif lags:
        outcome, style = "kept behind as planted", "yellow"
    else:
        outcome, style = "confirmed", ""
    tensors, compared, stale = (last[f"sync/{key}"] for key in ("tensors", "compared", "stale"))
    return [
        screen.line(
            (_label("transfer"), "dim"),
            (outcome, style),
            ("; ", ""),
            (f"restarts in all {restarts}", "yellow" if restarts else ""),
            (f"; {tensors} tensors, {compared} compared, {stale} stale", ""),
        )
    ]


def left_out(rows: Rows, screen: Screen) -> list[Text]:
    """What the loss could not use, since the run began; nothing where it could use everything."""
    parts = [
        f"{words} in all {count}"
        for name, words in (
            ("updates_skipped", "updates skipped"),
            ("tokens_dropped", "tokens without a log-prob"),
        )
        if (count := int(sum(series(rows, name).values())))
    ]
    return [screen.line((_label("left out"), "dim"), ("; ".join(parts), "yellow"))] if parts else []


def shares(rows: Rows, screen: Screen) -> list[Text]:
    """Of the time of all steps, largest first; those that fit."""
    whole = sum(series(rows, "seconds/step").values())
    if not whole > 0:
        return []
    names = {name for row in rows for name in row if name.startswith("seconds/")}
    spent = {name: sum(series(rows, name).values()) / whole for name in names - {"seconds/step"}}
    text = ""
    for name, share in sorted(spent.items(), key=lambda item: -item[1]):
        percent = f"{100 * share:.0f} %" if share >= 0.01 else "<1 %"
        longer = f"{text}, " * bool(text) + f"{name.removeprefix('seconds/')} {percent}"
        if LABEL + len(longer) > screen.width:
            break
        text = longer
    return [screen.line((_label("time"), "dim"), (text, ""))]


def _label(word: str) -> str:
    return word.ljust(LABEL)
