"""The parts of the page that are worked out: the confusion as a square, and what misses say."""

from __future__ import annotations

from mismatch_lab.schema import Cause
from mismatch_lab.scorecard.accuracy import is_miss, is_miss_of_place
from mismatch_lab.scorecard.console import case_line
from mismatch_lab.scorecard.judge import judge
from mismatch_lab.scorecard.page import answer_words, matrix, planted_words
from mismatch_lab.scorecard.records import Case, CaseResult, Truth


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
