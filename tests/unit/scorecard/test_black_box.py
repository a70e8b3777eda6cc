"""What is said of a run's record: what of it is looked at, and what a failure costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mismatch_lab.attribution.thresholds import CONFIDENCE
from mismatch_lab.captures.arrays import capture_from_arrays, manifest_of
from mismatch_lab.captures.store import save_capture
from mismatch_lab.run.request import DiagnoseRequest, build_run
from mismatch_lab.schema import RunSpec
from mismatch_lab.scorecard.black_box import _as_arrays, ask_captures, ask_record
from mismatch_lab.scorecard.records import BlackBox, Case, Truth

TEXT = {3: "a", 4: "b", 5: "ab"}
IDS = np.array([[7, 7, 3, 4, 6, 8, 9, 3]] * 4)
MASK = np.array([[0, 0, 1, 1, 1, 1, 1, 1]] * 4)
OTHER_IDS = np.array([[7, 7, 5, 6, 8, 9, 3]] * 4)  # "ab" is one token
OTHER_MASK = MASK[:, :7]


@pytest.fixture(scope="module")
def run() -> RunSpec:
    return build_run(DiagnoseRequest(engine="hf", trainer="hf", dtype="float32"))


def case() -> Case:
    truth = Truth(
        fault="retokenisation", severity="plain", causes=("retokenisation",),
        families=("tokens",), sides=("train",), location="model.layers.0",
    )  # fmt: skip
    return Case(id="c", kind="single", model="m", dtype="float32", engine="hf", truths=(truth,))


def store(folder: Path, run: RunSpec, train: np.ndarray, train_mask: np.ndarray) -> Path:
    """Both sides' captures in folder, with the text of the tokens."""
    sides = (("decode", run.infer, IDS, MASK), ("train", run.train, train, train_mask))
    for at, (name, side, ids, mask) in enumerate(sides):
        plain = capture_from_arrays(ids, np.full(ids.shape, -1.0 - at), mask)
        capture = replace(plain, token_text={number: TEXT.get(number, "x") for number in range(10)})
        save_capture(folder / name, capture, manifest_of(name, side, capture, run.probe.sampling))
    return folder


def asked(run: RunSpec, captures: Path) -> BlackBox:
    return ask_record(case(), run, captures, captures.parent / "out", lambda event: None)


def test_a_record_is_no_more_than_its_arrays(tmp_path: Path, run: RunSpec) -> None:
    captures = store(tmp_path / "captures", run, OTHER_IDS, OTHER_MASK)
    compared, recorded = ask_captures(case(), captures), asked(run, captures)
    for box in (compared, recorded):
        assert box.judgement is not None
        assert [cause.id for cause in box.causes] == ["retokenisation"]
        assert (box.judgement.cause, box.judgement.location) == (True, None)
    # Captures say that both spell the same text. Arrays do not, which is less sure.
    assert compared.causes[0].confidence == CONFIDENCE.other_ids
    assert recorded.causes[0].confidence == CONFIDENCE.other_ids_and_text
    assert CONFIDENCE.other_ids_and_text < CONFIDENCE.other_ids


def test_what_cannot_be_asked_has_a_problem_and_no_judgement(tmp_path: Path, run: RunSpec) -> None:
    captures = store(tmp_path / "captures", run, IDS, MASK)
    gone = run.infer.model_copy(update={"model": str(tmp_path / "gone")})
    box = asked(run.model_copy(update={"infer": gone}), captures)
    assert box.judgement is None
    assert "gone" in box.problem
    nothing = asked(run, tmp_path)
    assert nothing.judgement is None
    assert "decode is not a capture" in nothing.problem


def test_how_rows_were_packed_is_part_of_the_record() -> None:
    ids, mask = np.arange(8).reshape(2, 4), np.arange(8).reshape(2, 4) % 4 > 0
    capture = capture_from_arrays(ids, np.zeros((2, 4)), mask, packed_rows=[1, 1])
    packs = _as_arrays(capture).packs
    assert packs is not None
    assert packs.tolist() == [[1, 0], [1, 1]]
