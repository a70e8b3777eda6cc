"""The parts of the page that are worked out: the confusion as a square, and what misses say."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console

from mismatch_lab.engines.provenance import gather
from mismatch_lab.resources import reports_dir
from mismatch_lab.schema import Cause
from mismatch_lab.scorecard.accuracy import is_miss, is_miss_of_place
from mismatch_lab.scorecard.card import build_card
from mismatch_lab.scorecard.console import case_line, print_card
from mismatch_lab.scorecard.judge import judge
from mismatch_lab.scorecard.page import answer_words, matrix, planted_words, render_card
from mismatch_lab.scorecard.records import BlackBox, Case, CaseResult, Truth
from mismatch_lab.scorecard.store import result_file, save_result, stored_result


def result(location: str | None, named: str = "sinks") -> CaseResult:
    truth = Truth(
        fault="sinks-dropped", severity="plain", causes=("sinks",), families=("attention",),
        sides=("train",), location="model.layers.0.self_attn",
    )  # fmt: skip
    case = Case(id="c", kind="single", model="m", dtype="float32", engine="hf", truths=(truth,))
    cause = Cause(
        id=named, family="attention", side="train", confidence=0.9, location=location, evidence=[]
    )
    found = judge(case, "mismatch", [cause])
    return CaseResult(case=case, judgement=found, causes=(cause,), status="mismatch", wall_s=2)


def test_columns_stand_in_the_order_of_the_rows_and_others_follow() -> None:
    shown = matrix({"healthy": {"match": 3, "b": 1}, "b": {"b": 2, "aa": 1}, "c": {"c": 4}})
    assert [row["name"] for row in shown["rows"]] == ["b", "c", "healthy"]
    assert shown["columns"] == ["b", "c", "aa", "match"]
    (first, _, healthy) = shown["rows"]
    assert [cell["count"] for cell in first["cells"]] == [2, 0, 1, 0]
    assert [cell["right"] for cell in first["cells"]] == [True, False, False, False]
    assert first["cells"][0]["share"] == 2 / 3
    assert [cell["right"] for cell in healthy["cells"]] == [False, False, False, True]


def test_a_wrong_place_is_told_from_a_wrong_cause() -> None:
    right, placed, wrong = result("model.layers.0"), result("model.layers.3"), result(None, "theta")
    assert not is_miss(right)
    assert is_miss(placed)
    assert is_miss_of_place(placed)
    assert is_miss(wrong)
    assert not is_miss_of_place(wrong)
    words = [case_line(r).partition("]")[2].partition("[")[0] for r in (right, placed, wrong)]
    assert words == ["right", "place", "wrong"]


def test_words() -> None:
    found = result(None)
    assert planted_words(found) == "sinks-dropped (plain, train)"
    assert answer_words(found) == "sinks (train, no place, 0.90)"
    nothing = found.model_copy(update={"causes": ()})
    assert answer_words(nothing) == "mismatch, no cause"


def shown(*results: CaseResult) -> tuple[str, str]:
    """The terminal's text and the page's."""
    card = build_card(list(results), len(results), "hf", "full", gather([]))
    written = io.StringIO()
    print_card(Console(file=written, width=100), card, Path("out"))
    page = re.sub(r"<style>.*?</style>", "", render_card(card, reports_dir()), flags=re.S)
    return written.getvalue(), re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def test_captures_alone_have_rows_of_their_own() -> None:
    both = result("model.layers.0")
    box = BlackBox(judgement=judge(both.case, "mismatch", []), status="mismatch")
    terminal, page = shown(both.model_copy(update={"black_box": box}))
    white, black = terminal.split("From captures alone, as compare has them:")
    assert "plain         1  100% 1/1  100% 1/1  100% 1/1  100% 1/1  100% 1/1" in white
    assert "plain         1  100% 1/1  0% 0/1  0% 0/1  0% 0/1" in black
    assert "location" not in black.partition("met")[0]
    apart = page.partition("Single faults by severity, captures alone")[2]
    assert "plain 1 100 % 1/1 [21, 100] 0 % 0/1 [0, 79] 0 % 0/1" in apart  # 1/(1 + 3.84)


def test_captures_with_a_checkpoint_have_rows_and_misses_of_their_own() -> None:
    right = result("model.layers.0")
    wrong = BlackBox(
        judgement=judge(right.case, "mismatch", result(None, "theta").causes),
        status="mismatch",
        causes=result(None, "theta").causes,
    )
    none = BlackBox(judgement=None, problem="out of memory")
    terminal, page = shown(
        right.model_copy(update={"recorded": wrong}),
        right.model_copy(update={"recorded": none}),
    )
    assert "From captures alone" not in terminal
    _, apart = terminal.split("From captures and the checkpoint, as diagnose --captures has them:")
    assert "plain         1  100% 1/1  100% 1/1  100% 1/1  0% 0/1" in apart
    assert "miss: sinks-dropped (plain, train) on m: theta (train, no place, 0.90)" in apart
    assert "none: c: out of memory" in apart
    _, misses = page.split("Misses, captures with a checkpoint: 1")
    assert "sinks-dropped (plain, train), m: theta (train, no place, 0.90)" in misses
    assert "c : out of memory" in misses


def test_results_from_before_captures_were_judged_are_read_and_say_so(tmp_path: Path) -> None:
    old = result("model.layers.0")
    (tmp_path / "cases").mkdir()
    save_result(tmp_path, old)
    path = result_file(tmp_path, old.case)
    text = path.read_text()
    path.write_text(re.sub(r'"(black_box|recorded)": *null, *', "", text))
    assert path.read_text() != text
    assert stored_result(tmp_path, old.case) == old
    terminal, page = shown(old)
    assert "captures alone" not in terminal
    assert "No case has such an answer." in page
