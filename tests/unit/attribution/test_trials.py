"""Repairs that are run, or cannot be, and the record of it."""

from __future__ import annotations

from typing import Any

from builders import answered, side

from mismatch_lab.attribution.build_cause import build_cause
from mismatch_lab.attribution.lab import Lab
from mismatch_lab.attribution.repairs import Repair, resync
from mismatch_lab.attribution.trials import Trials, confirmed_by
from mismatch_lab.captures.capture import Capture
from mismatch_lab.engines.jobs import ScoreJob
from mismatch_lab.errors import EngineError
from mismatch_lab.schema import Alteration, SideSpec

ANSWER = answered([-1.0])
REPAIR = Repair("x put back", side("train", stock=("x",)))


class Side:
    """A real side that notes how it was asked; it cannot be repaired by loading tensors again."""

    def __init__(self) -> None:
        self.asked: list[tuple[SideSpec, str, bool]] = []

    def __call__(self, spec: SideSpec, name: str, train_mode: bool) -> Capture:
        self.asked.append((spec, name, train_mode))
        if spec.resync:
            raise EngineError("no such tensor")
        return ANSWER


def test_every_attempt_is_recorded_under_a_name_of_its_own() -> None:
    real, said = Side(), list[dict[str, Any]]()
    trials = Trials(real, said.append)
    assert trials.attempt(REPAIR, "train") is ANSWER
    assert trials.attempt(REPAIR, "train", train_mode=True) is ANSWER
    assert trials.attempt(resync(side("infer"), ("t",)), "decode") is None
    assert [(name, mode) for _, name, mode in real.asked] == [
        ("repair0", False), ("repair1", True), ("repair2", False),
    ]  # fmt: skip
    assert [(r.side, r.name) for r in trials.records] == [
        ("train", "train with x put back"),
        ("train", "train with x put back"),
        ("infer", "decode with t loaded again"),
    ]
    assert "no such tensor" in trials.records[2].result
    assert len(said) == 3


def test_simulations_are_one_entry() -> None:
    class Scorer:
        def score(self, _job: ScoreJob) -> Capture:
            return ANSWER

    trials = Trials(Side(), lambda event: None)
    lab = Lab(Scorer(), 1.0, 10)
    trials.record_lab(lab)
    assert trials.records == []  # nothing was simulated
    sinks, window = Alteration(name="drop_sinks"), Alteration(name="sliding_window", value=0)
    lab.score(())
    lab.score((sinks,))
    lab.score((sinks, window))
    trials.record_lab(lab)
    (record,) = trials.records
    assert record.side == "neither"
    assert "3 ways" in record.name
    assert record.result.startswith("2 kinds")


def test_experiments_are_added_to_those_before() -> None:
    cause = build_cause("rope-theta", "train", 0.9, "why", [])
    twice = confirmed_by(confirmed_by(cause, "a", 1.0, 0.5), "b", 0.5, 0.0)
    assert [(c.before, c.after) for c in twice.confirmed_by] == [(1.0, 0.5), (0.5, 0.0)]
    assert cause.confirmed_by == []
