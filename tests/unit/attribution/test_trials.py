"""Repairs that are run, or cannot be, and the record of it."""

from __future__ import annotations

import time
from typing import Any

from builders import answered, side

from mismatch_lab.attribution.candidates import build_cause, confirmed_by
from mismatch_lab.attribution.experiments.base import Trial
from mismatch_lab.attribution.repairs import resync
from mismatch_lab.attribution.simulate import Simulator
from mismatch_lab.attribution.trials import SCORED, Trials
from mismatch_lab.captures.capture import Capture
from mismatch_lab.engines.jobs import ScoreJob
from mismatch_lab.errors import EngineError
from mismatch_lab.schema import Alteration

ANSWER = answered([-1.0])


class Side:
    """A real side that notes how it was asked; it cannot load tensors again."""

    def __init__(self) -> None:
        self.asked: list[Trial] = []

    def __call__(self, trial: Trial) -> dict[str, Capture]:
        self.asked.append(trial)
        if trial.spec.resync:
            raise EngineError("no such tensor")
        return {SCORED: ANSWER}


def test_every_attempt_is_recorded() -> None:
    real, said = Side(), list[dict[str, Any]]()
    trials = Trials(real, said.append)
    stock, old = side("train", stock=("x",)), resync(side("infer"), ("t",))
    assert trials.rescore("stock x", stock, "train") is ANSWER
    assert trials.rescore("stock x", stock, "train", train_mode=True) is ANSWER
    assert trials.rescore(old.label, old.spec, "decode") is None
    assert [trial.train_mode for trial in real.asked] == [False, True, False]
    assert [(r.side, r.name) for r in trials.records] == [
        ("train", "train with stock x"),
        ("train", "train with stock x"),
        ("infer", "decode with t loaded again"),
    ]
    assert "no such tensor" in trials.records[2].result
    assert len(said) == 3


def test_what_the_budget_does_not_pay_for_is_not_begun() -> None:
    real = Side()
    trials = Trials(real, lambda event: None, time.monotonic() + 50, {"train": 30.0})
    assert trials.attempt("x", Trial(side("train")), "train", slower=2.0) is None  # 60 s
    assert trials.attempt("x", Trial(side("train")), "train") == {SCORED: ANSWER}  # 30 s
    assert trials.attempt("y", Trial(side("infer")), "decode") is not None  # nobody knows
    assert trials.skipped == ["train with x"]
    assert len(real.asked) == 2


def test_simulations_are_one_entry() -> None:
    class Scorer:
        def score(self, _job: ScoreJob) -> Capture:
            return ANSWER

    trials = Trials(Side(), lambda event: None)
    simulator = Simulator(Scorer(), 1.0, 10)
    trials.record_simulations(simulator)
    assert trials.records == []  # nothing was simulated
    sinks, window = Alteration(name="drop_sinks"), Alteration(name="sliding_window", value=0)
    simulator.score(())
    simulator.score((sinks,))
    simulator.score((sinks, window))
    trials.record_simulations(simulator)
    (record,) = trials.records
    assert record.side == "neither"
    assert "3 ways" in record.name
    assert record.result.startswith("2 kinds")


def test_experiments_are_added_to_those_before() -> None:
    cause = build_cause("rope-theta", "train", 0.9, "why", [])
    twice = confirmed_by(confirmed_by(cause, "a", 1.0, 0.5), "b", 0.5, 0.0)
    assert [(c.before, c.after) for c in twice.confirmed_by] == [(1.0, 0.5), (0.5, 0.0)]
    assert cause.confirmed_by == []
