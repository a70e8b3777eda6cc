"""The dashboard of a run, drawn to terminals of given sizes."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console

from mismatch_lab.report.screen import Screen
from mismatch_lab.trainer.comparison.shown import SHOWN
from mismatch_lab.trainer.config import TrainConfig, read_config
from mismatch_lab.trainer.dashboard import Dashboard
from mismatch_lab.trainer.dashboard_lines import duration
from mismatch_lab.trainer.dashboard_table import KEPT_LONGEST

DRAWN = [name for name, shown in SHOWN.items() if shown.drawn]
SMALL, LARGE = Screen(80, 24), Screen(140, 45)


class Time:
    """Seconds that pass when they are told to."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def dashboard(history: list[dict[str, Any]] | None = None, **settings: Any) -> Dashboard:
    config = read_config(None, {"steps": 20, **settings})
    console = Console(file=io.StringIO(), width=80, height=24)
    return Dashboard(config, console, history or [], Time())


def values(step: int, **others: Any) -> dict[str, Any]:
    """Of a step in which everything is measured but held-out accuracy."""
    seconds = {"step": 4.0, "rollout": 2.0, "update": 1.0, "measure": 0.01}
    return {
        **{name: 0.5 + step for name in DRAWN if name != "heldout/reward"},
        **{f"seconds/{name}": value for name, value in seconds.items()},
        "sync/tensors": 37,
        "sync/compared": 24,
        "sync/stale": 0,
        "sync/restarted": 0,
        **others,
    }


def text(shown: Dashboard, screen: Screen = LARGE) -> str:
    return "\n".join(line.plain for line in shown.frame(screen))


def row(shown: Dashboard, title: str, screen: Screen = LARGE) -> str:
    (found,) = [
        line for line in text(shown, screen).splitlines() if line.lstrip().startswith(title)
    ]
    return " ".join(found.split())


def test_before_the_first_step_it_says_what_is_waited_for() -> None:
    shown = dashboard(model="some/where/SmolLM2/", faults=["sinks-dropped"], fixes=["fp32-head"])
    shown._clock.now_s += 65.4  # type: ignore[attr-defined]
    assert text(shown).splitlines() == [
        "train    gsm8k  SmolLM2, vllm, float32",
        "faults   sinks-dropped  fixes    fp32-head",
        "step     0/20 " + "─" * 40 + "  1 min 05 s",
        "phase    starting the engine, 1 min 05 s",
    ]


def test_steps_time_and_phase() -> None:
    shown = dashboard()
    for step in range(5):
        shown.step(step, values(step))
    shown.phase("sync")
    shown._clock.now_s += 3.0  # type: ignore[attr-defined]
    lines = text(shown).splitlines()
    # 15 steps of 4 s are left; a quarter of 40 columns is done.
    assert lines[1] == "step     5/20 " + "━" * 10 + "─" * 30 + "  3 s, about 1 min 00 s left"
    assert lines[2] == "phase    sync, 3 s (weights to the engine, and a check of them)"
    assert lines[-1] == "time     rollout 50 %, update 25 %, measure <1 %"
    parts = [line for line in lines if line in {"learning", "policy", "mismatch"}]
    assert parts == ["learning", "policy", "mismatch"]


def test_now_start_and_the_whole_run_of_a_metric() -> None:
    shown = dashboard()
    for step in range(3):
        evaluated = {"heldout/reward": 0.25} if step == 1 else {}
        shown.step(step, values(step, **evaluated, entropy=[0.0, math.nan, 2.0][step]))
    assert row(shown, "Reward") == "Reward mean 2.50 0.500 ▁▅█"
    # What the last step did not measure stays; what it measured as NaN is not 0.
    assert row(shown, "Held-out") == "Held-out accuracy mean reward 0.250 0.250 ▄"
    assert row(shown, "Entropy") == "Entropy nats/token 2.00 0 ▁ █"
    shown.step(3, values(3, entropy=math.nan))
    assert row(shown, "Entropy") == "Entropy nats/token – 0 ▁ █"
    # Never measured: no line.
    assert "Mean importance weight" in text(shown)
    never = dashboard()
    never.step(0, values(0, **{"correction/weight_mean": math.nan}))
    assert "Mean importance weight" not in text(never)


def test_transfers_and_restarts_in_all() -> None:
    shown = dashboard()
    shown.step(0, values(0, **{"sync/restarted": 2, "sync/stale": 3}))
    expected = "transfer not confirmed; restarts in all 2; 37 tensors, 24 compared, 3 stale"
    assert row(shown, "transfer") == expected
    (line,) = [line for line in shown.frame(LARGE) if line.plain.startswith("transfer")]
    marked = [line.plain[span.start : span.end] for span in line.spans if span.style == "yellow"]
    assert marked == ["not confirmed", "restarts in all 2"]
    shown.step(1, values(1))
    expected = "transfer confirmed; restarts in all 2; 37 tensors, 24 compared, 0 stale"
    assert row(shown, "transfer") == expected
    # A planted lag turns the check off: nothing is confirmed then.
    lagging = dashboard(faults=["stale-weights:slight"])
    lagging.step(0, values(0))
    assert row(lagging, "transfer").startswith(
        "transfer kept behind as planted; restarts in all 0;"
    )


@pytest.mark.parametrize("size", [(80, 24), (140, 45), (60, 16), (40, 10), (20, 5), (1, 1)])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_it_fits_and_leaves_room_below(size: tuple[int, int], encoding: str) -> None:
    width, height = size
    name = "a-model-with-a-very-long-name-" * 5
    shown = dashboard(model=name, faults=["sinks-dropped"], fixes=["fp32-head"])
    for step in range(20):
        shown.step(step, values(step, **{"heldout/reward": -1e-300 * step}))
    lines = shown.frame(Screen(width, height, encoding))
    assert len(lines) <= max(1, height - 2)
    assert max(line.cell_len for line in lines) <= width
    "\n".join(line.plain for line in lines).encode(encoding)
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(shown)
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert len(written.splitlines()) == len(shown.frame(Screen(width, height)))  # no line wraps


def test_what_the_loss_could_not_use_is_said_once_it_happened() -> None:
    shown = dashboard()
    shown.step(0, values(0, updates_skipped=0, tokens_dropped=0))
    assert "left out" not in text(shown)
    shown.step(1, values(1, updates_skipped=1, tokens_dropped=5))
    shown.step(2, values(2, updates_skipped=0, tokens_dropped=2))
    found = row(shown, "left out")
    assert found == "left out updates skipped in all 1; tokens without a log-prob in all 7"


def test_in_a_low_terminal_the_least_important_go_first() -> None:
    shown = dashboard()
    shown.step(0, values(0, **{"heldout/reward": 0.5}))
    assert sorted(KEPT_LONGEST) == sorted(DRAWN)
    titles = {name: SHOWN[name].title for name in DRAWN}
    assert all(title in text(shown, SMALL) for title in titles.values())
    low = text(shown, Screen(80, 14))  # 12 lines: 3 above, 2 below, the table's head, 6 metrics
    assert [titles[n] in low for n in KEPT_LONGEST] == [True] * 6 + [False] * 8
    assert "transfer" in low
    assert "learning" not in low
    assert "transfer" not in text(shown, Screen(80, 9))


def test_a_narrower_terminal_has_shorter_curves_or_none() -> None:
    shown = dashboard(steps=100)
    for step in range(100):
        shown.step(step, values(step))
    lengths = [len(row(shown, "Reward", Screen(w, 24)).split()[-1]) for w in (140, 80, 70)]
    assert lengths[0] == 32
    assert 32 > lengths[1] > lengths[2] >= 8
    assert "▁" not in text(shown, Screen(60, 24))


def test_without_blocks_it_is_ascii() -> None:
    shown = dashboard(model="модель")
    for step in range(3):
        shown.step(step, values(step, grad_norm=[1e-5, 1e-3, 0.1][step], entropy=-1.0))
    plain = text(shown, Screen(80, 24, "latin-1"))
    assert plain.isascii()
    assert "??????, vllm" in plain
    assert "Mean |delta| nats" in plain
    assert "0.100   1.00e-5  _=#" in plain  # a log scale
    assert "step     3/20 ####" in plain
    assert text(shown, Screen(80, 24, "no such encoding")) == plain


def test_names_are_text_and_not_markup_or_control() -> None:
    shown = dashboard(model="x/[red]a\x1b[31m\nb")
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True)
    console.print(shown)
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]a⟨U+001B⟩[31m b, vllm" in written
    assert "\x1b[31m" not in written


def test_a_resumed_run_shows_each_step_once() -> None:
    history = [{"step": n, "reward": float(n), "entropy": None} for n in range(8)]
    shown = dashboard(history)
    assert row(shown, "Reward") == "Reward mean 7.00 0 ▁▂▃▄▅▆▇█"
    assert "Entropy" not in text(shown)
    shown.begin(5)
    assert text(shown).splitlines()[1].startswith("step     5/20 ")
    shown.step(5, {"reward": 0.0})
    assert row(shown, "Reward") == "Reward mean 0 0 ▁▃▅▇█▁"
    shown.step(2, {"reward": 9.0})
    assert row(shown, "Reward") == "Reward mean 9.00 0 ▁▁█"


def test_the_last_frame_stays_and_the_cursor_is_shown_again() -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, height=24, force_terminal=True, color_system=None)
    with Dashboard(TrainConfig(), console) as shown:
        shown.phase("eval")
    written = file.getvalue()
    assert "starting the engine" in written
    assert written.index("\x1b[?25l") < written.rindex("\x1b[?25h")
    assert written.rindex("phase    finished") > written.rindex("starting the engine")
    assert "1049" not in written  # no other screen that is taken away at the end


@pytest.mark.parametrize(
    ("error", "word"), [(KeyboardInterrupt, "interrupted"), (ValueError, "failed")]
)
def test_an_error_leaves_the_terminal_in_order(error: type[BaseException], word: str) -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, height=24, force_terminal=True, color_system=None)

    def fail() -> None:
        with Dashboard(TrainConfig(), console, clock=Time()) as shown:
            shown.phase("rollout")
            raise error

    with pytest.raises(error):
        fail()
    written = file.getvalue()
    assert f"phase    {word} at: rollout, 0 s" in written
    assert written.rindex("\x1b[?25h") > written.rindex(word)


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59.4, 59.6, 3599.6, 7500)] == [
        "0 s",
        "59 s",
        "1 min 00 s",
        "1 h 00 min",
        "2 h 05 min",
    ]
