"""Rows whose ids differ between the sides, in two lanes; text that the reference alone knows."""

from __future__ import annotations

from pathlib import Path

import build_run
import numpy as np

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.captures.store import save_capture
from mismatch_lab.report.page import page_context
from mismatch_lab.report.run_files import read_run
from mismatch_lab.report.viewer import other_ids

TEXT = {20: "a", 21: "b", 40: "<i>", 41: "d", 22: "e"}


def side(answers: list[list[int]], text: dict[int, str]) -> Capture:
    rows = Rows.build(
        [[1, *answer] for answer in answers],
        [1] * len(answers),
        [[False] + [True] * len(answer) for answer in answers],
    )
    return Capture(rows, np.where(rows.sampled, -1, np.nan).astype("f4"), token_text=text)


def run(folder: Path, train: list[list[int]]) -> Path:
    build_run.build_error(folder)
    answers = [[20, 21, 22], [20, 22, 22], [20, 20, 22]]
    for name, ids in (("decode", answers), ("train", train)):
        capture = side(ids, TEXT)
        save_capture(folder / "captures" / name, capture, build_run.manifest(name, capture))
    return folder


def test_other_ids_stand_in_two_lanes(tmp_path: Path) -> None:
    (found,) = other_ids(
        read_run(run(tmp_path / "r", [[20, 40, 41, 22], [20, 22, 22], [20, 20, 22]]))
    )
    assert (found.row, found.part, found.at) == (0, "answer", 1)
    engine, trainer = found.lanes
    assert engine.tokens == [("a", False), ("b", True), ("e", False)]
    assert trainer.tokens == [("a", False), ("<i>", True), ("d", True), ("e", False)]
    assert (engine.left_out, trainer.left_out) == (0, 0)


def test_an_answer_that_ends_early_differs_where_it_ends(tmp_path: Path) -> None:
    (found,) = other_ids(read_run(run(tmp_path / "r", [[20, 21], [20, 22, 22], [20, 20, 22]])))
    assert found.lanes[0].tokens == [("a", False), ("b", False), ("e", True)]
    assert found.lanes[1].tokens == [("a", False), ("b", False)]


def test_the_same_ids_have_no_lanes(tmp_path: Path) -> None:
    same = read_run(run(tmp_path / "r", [[20, 21, 22], [20, 22, 22], [20, 20, 22]]))
    assert other_ids(same) == []
    assert page_context(same)["other_ids"] == []


def test_text_comes_from_whichever_capture_knows_it(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    build_run.build_error(folder)
    for name in ("decode", "train", "ref"):
        capture = side([[20, 21, 22]], TEXT if name == "ref" else {})
        save_capture(folder / "captures" / name, capture, build_run.manifest(name, capture))
    chips = page_context(read_run(folder))["views"][0].excerpt.chips
    assert [chip.text for chip in chips] == ["#1", "a", "b", "e"]
