"""When a trainer's contradiction of itself is the cause of its error of 0.5 nats; noise is 0.01."""

from __future__ import annotations

from typing import Any

import pytest
from builders import NAN, FakeLab, a_charge, a_fit, altered_by, answered, run_of

from mismatch_lab.attribution.build_cause import build_cause
from mismatch_lab.attribution.inquest import Inquest, Measured
from mismatch_lab.attribution.investigate import Inquiry
from mismatch_lab.attribution.knobs.base import Trial
from mismatch_lab.attribution.pursuit import Pursuit
from mismatch_lab.attribution.self_disagreement import (
    AGAIN,
    OTHER_BATCH,
    TRAINING,
    Disagreement,
)
from mismatch_lab.attribution.trainer_itself import in_training_mode, with_own
from mismatch_lab.attribution.trials import SCORED, Trials
from mismatch_lab.captures.capture import Capture
from mismatch_lab.errors import EngineError
from mismatch_lab.schema import Cause, Localisation, ModuleError, SideSpec

SOUND = answered([-1.0, -2.0])
WRONG = answered([-1.5, -2.5])
CHARGE = a_charge([NAN, -1.5, -2.5], [NAN, -1.0, -2.0], noise_nats=0.01)
SURE = build_cause("rope-theta", "train", 0.9, "", [])
UNSURE = build_cause("norm-precision", "train", 0.4, "", [])


class Side:
    """Says what it was told to, in evaluation and in training mode."""

    def __init__(self, *answers: Capture | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[SideSpec, bool]] = []

    def __call__(self, trial: Trial) -> dict[str, Capture]:
        self.asked.append((trial.spec, trial.train_mode))
        answer = self.answers.pop(0)
        if answer is None:
            raise EngineError("cannot be run")
        return {SCORED: answer}


def inquest(real: Side | None = None, where: Localisation | None = None) -> Inquest:
    captures = {"decode": SOUND, "ref": SOUND, "prefill": SOUND, "train": WRONG}
    floor: Any = None  # of no interest here
    found = Measured(captures, {}, floor, where, {})
    return Inquest(run_of(), found, FakeLab({}), Trials(real or Side(), lambda event: None))


def own(against: str, size: float = 0.4, cause: str = "dropout-active") -> Disagreement:
    return Disagreement(cause, against, size, [])


def inquiry(explained: float = 0.0, left: float = 0.5) -> Inquiry:
    best = a_fit((altered_by("rope_theta", "rope-theta"),), 1 - explained)
    return Inquiry(CHARGE, [], Pursuit(best), left_nats=left)


def ids(causes: list[Cause]) -> list[str]:
    return [cause.id for cause in causes]


@pytest.mark.parametrize(
    ("of", "found"),
    [
        ([], inquiry()),
        ([own(TRAINING)], inquiry()),  # another pass than the one that is wrong
        ([own(AGAIN, size=0.02)], inquiry()),  # 5 % of 0.5 nats are 0.025
        ([own(AGAIN)], inquiry(explained=0.5)),  # one defect explains as much
        ([own(AGAIN)], inquiry(left=0.005)),
    ],
)
def test_where_it_is_none(of: list[Disagreement], found: Inquiry) -> None:
    real = Side()
    assert with_own(inquest(real), [UNSURE], found, of) == [UNSURE]
    assert real.asked == []


def test_another_batch_is_named_with_what_is_sure() -> None:
    found = with_own(
        inquest(), [SURE, UNSURE], inquiry(), [own(OTHER_BATCH, cause="batch-variance")]
    )
    assert ids(found) == ["batch-variance", "rope-theta"]


def test_coarse_rounding_falls_otherwise_in_another_batch() -> None:
    name = "model.layers.0.input_layernorm"
    module = ModuleError(
        name=name, kind="norm", cumulative=0.003, infer_error=0.0, train_error=0.003,
        floor=0.0001, diverges=True, n=100,
    )  # fmt: skip
    where = Localisation(
        depth="standard", method="", first_divergent_module=name, side="train", per_module=[module]
    )
    found = with_own(
        inquest(where=where), [SURE], inquiry(), [own(OTHER_BATCH, cause="batch-variance")]
    )
    assert ids(found) == ["norm-precision", "rope-theta"]


def test_dropout_is_disabled_on_trial() -> None:
    real = Side(SOUND)
    (cause,) = with_own(inquest(real), [UNSURE], inquiry(), [own(AGAIN)])
    assert cause.id == "dropout-active"
    assert [(c.before, c.after) for c in cause.confirmed_by] == [(0.5, 0.0)]
    ((spec, train_mode),) = real.asked
    assert spec.no_dropout
    assert not train_mode


@pytest.mark.parametrize("answer", [None, WRONG])
def test_a_trial_that_fails_or_changes_nothing_confirms_nothing(answer: Capture | None) -> None:
    found = with_own(inquest(Side(answer)), [SURE, UNSURE], inquiry(), [own(AGAIN)])
    assert ids(found) == ["dropout-active", "rope-theta"]
    assert found[0].confirmed_by == []


def test_in_training_mode_both_passes_are_compared_again() -> None:
    # With dropout disabled the passes are 0.125 apart on one of two tokens.
    real = Side(SOUND, answered([-1.0, -2.125]))
    (cause,) = in_training_mode(inquest(real), [own(AGAIN), own(TRAINING, 0.4)])
    assert cause.id == "dropout-active"
    assert [train_mode for _, train_mode in real.asked] == [False, True]
    assert [(c.before, c.after) for c in cause.confirmed_by] == [(0.4, 0.0625)]


def test_in_training_mode_a_trial_that_fails_confirms_nothing() -> None:
    (cause,) = in_training_mode(inquest(Side(SOUND, None)), [own(TRAINING)])
    assert cause.confirmed_by == []


def test_what_is_known_already_is_not_named_again() -> None:
    known = inquest()
    known.outcome.causes.append(build_cause("dropout-active", "train", 0.9, "", []))
    assert in_training_mode(known, [own(TRAINING)]) == []


def test_what_is_left_without_dropout_is_looked_for() -> None:
    # 0.25 nats on both tokens are left, and on the grid of no format; nothing can be altered here.
    half = answered([-1.25, -2.25])
    found = with_own(inquest(Side(half)), [UNSURE], inquiry(), [own(AGAIN)])
    assert ids(found) == ["dropout-active"]
    assert found[0].confirmed_by[0].after == 0.25
