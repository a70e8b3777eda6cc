"""A trainer held against itself: which contradiction is of which kind. Noise is 0.01 nats.

When a trainer's contradiction of itself is the cause of its error of 0.5 nats; noise is 0.01.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import NAN, FakeSimulator, a_fit, a_suspect, altered_by, answered, run_of

from mismatch_lab.attribution.candidates import build_cause
from mismatch_lab.attribution.context import Context, Measured
from mismatch_lab.attribution.experiments.base import Trial
from mismatch_lab.attribution.explain import Simulated
from mismatch_lab.attribution.search import Outcome
from mismatch_lab.attribution.self_disagreement import (
    AGAIN,
    OTHER_BATCH,
    TRAINING,
    Disagreement,
    in_training_mode,
    self_disagreements,
    with_own,
)
from mismatch_lab.attribution.trials import SCORED, Trials
from mismatch_lab.captures.capture import Capture
from mismatch_lab.errors import EngineError
from mismatch_lab.schema import Cause, Localisation, ModuleError, SideSpec

ONCE = answered([-1.0, -2.0, -3.0], [-1.0, -1.0, -1.0])
OFF = answered([-1.25, -2.25, -3.25])
"""The first row, off by 0.25 nats: self-comparisons have fewer rows."""
SAME = answered([-1.0, -2.0, -3.0])


def kinds(**others: Capture) -> list[tuple[str, str, float]]:
    found = self_disagreements({"train": ONCE, **others}, 0.01)
    return [(f.cause, f.against, f.abs_delta_nats) for f in found]


def test_a_trainer_that_says_the_same_every_time() -> None:
    assert kinds(train_repeat=SAME, train_micro_batch=SAME, train_mode=SAME) == []
    near = answered([-1.005, -2.0, -3.0])  # noise
    assert kinds(train_repeat=near) == []
    assert kinds() == []


def test_the_same_pass_again_differs_where_it_is_random() -> None:
    expected = [("dropout-active", "train_repeat", 0.25)]
    assert kinds(train_repeat=OFF, train_micro_batch=OFF, train_mode=OFF) == expected


def test_another_batch_alone() -> None:
    assert kinds(train_repeat=SAME, train_micro_batch=OFF, train_mode=SAME) == [
        ("batch-variance", "train_micro_batch", 0.25)
    ]


def test_training_mode_alone() -> None:
    assert kinds(train_repeat=SAME, train_micro_batch=SAME, train_mode=OFF) == [
        ("dropout-active", "train_mode", 0.25)
    ]


def test_training_mode_counts_beside_repetition_where_it_adds_its_own() -> None:
    far = answered([-1.75, -2.75, -3.75])  # three times as far
    assert kinds(train_repeat=OFF, train_mode=far) == [
        ("dropout-active", "train_repeat", 0.25),
        ("dropout-active", "train_mode", 0.75),
    ]


def routed(capture: Capture, chosen: list[int], gate: float = 1.0) -> Capture:
    """With one of two experts chosen at each token, and the router's logits times `gate`."""
    logits = gate * np.ones((len(chosen), 1, 2), np.float32)
    topk = np.array(chosen, np.int16).reshape(-1, 1, 1)
    return replace(capture, router_topk=topk, router_logits=logits)


def test_tokens_after_a_change_of_experts_only_is_the_routers_doing() -> None:
    first = routed(ONCE, [0] * 8)
    # Another expert at token 1: the log-probs of tokens 2 and 3 are behind it.
    again = routed(answered([-1.0, -2.25, -3.25]), [0, 1, 0, 0])
    (found,) = self_disagreements({"train": first, "train_repeat": again}, 0.01)
    assert found.cause == "routing-two-pass"
    # 0.5 over three tokens; 0.25 after the change, 0 before; the routers' logits are the same.
    assert [e.value for e in found.evidence] == pytest.approx([0.5 / 3, 0.25, 0.0, 0.0, 0.0])


def test_tokens_before_it_too_is_not() -> None:
    first = routed(ONCE, [0] * 8)
    again = routed(answered([-1.25, -2.25, -3.25]), [0, 1, 0, 0])
    (found,) = self_disagreements({"train": first, "train_repeat": again}, 0.01)
    assert found.cause == "dropout-active"
    same_experts = routed(answered([-1.25, -2.25, -3.25]), [0] * 4)
    (found,) = self_disagreements({"train": first, "train_micro_batch": same_experts}, 0.01)
    assert found.cause == "batch-variance"


@pytest.mark.parametrize(("gate", "cause"), [(1.0, "routing-two-pass"), (1.1, "dropout-active")])
def test_where_no_token_comes_before_the_first_router_decides(gate: float, cause: str) -> None:
    first = routed(ONCE, [0] * 8)
    again = routed(answered([-1.25, -2.25, -3.25]), [1, 0, 0, 0], gate)
    (found,) = self_disagreements({"train": first, "train_repeat": again}, 0.01)
    assert found.cause == cause
    assert found.evidence[-2].value == pytest.approx(gate - 1, abs=1e-6)


def test_a_choice_that_changes_with_its_logits_is_not_the_routers_doing() -> None:
    """Row of four: token 2's logits and choice change, those before are the same to the bit."""
    first = routed(answered([-1.0, -2.0, -3.0]), [0] * 4)
    logits = np.ones((4, 1, 2), np.float32)
    logits[2] = [1.0, 1.5]
    again = replace(routed(answered([-1.0, -2.0, -3.5]), [0, 0, 1, 0]), router_logits=logits)
    (found,) = self_disagreements({"train": first, "train_micro_batch": again}, 0.01)
    assert found.cause == "batch-variance"
    # 0.5 / sqrt(2) over one unit in the last place of float32
    assert found.evidence[-1].value == pytest.approx(0.5 / 2**0.5 / np.finfo(np.float32).eps)


EXPECTED = answered([-1.0, -2.0])
WRONG = answered([-1.5, -2.5])
SUSPECT = a_suspect([NAN, -1.5, -2.5], [NAN, -1.0, -2.0], noise_nats=0.01)
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


def context(real: Side | None = None, where: Localisation | None = None) -> Context:
    captures = {
        "decode": EXPECTED,
        "ref": EXPECTED,
        "prefill": EXPECTED,
        "train": WRONG,
    }
    floor: Any = None  # of no interest here
    found = Measured(captures, {}, floor, where, {})
    return Context.of(
        run_of(), found, FakeSimulator({}), Trials(real or Side(), lambda event: None)
    )


def own(against: str, size: float = 0.4, cause: str = "dropout-active") -> Disagreement:
    return Disagreement(cause, against, size, [])


def simulated(explained: float = 0.0, left: float = 0.5) -> Simulated:
    best = a_fit((altered_by("rope_theta", "rope-theta"),), 1 - explained)
    return Simulated(SUSPECT, [], Outcome(best), left_nats=left)


def ids(causes: Sequence[Cause]) -> list[str]:
    return [cause.id for cause in causes]


@pytest.mark.parametrize(
    ("of", "found"),
    [
        ([], simulated()),
        ([own(TRAINING)], simulated()),  # another pass than the one that is wrong
        ([own(AGAIN, size=0.02)], simulated()),  # 5 % of 0.5 nats are 0.025
        ([own(AGAIN)], simulated(explained=0.5)),  # one defect explains as much
        ([own(AGAIN)], simulated(left=0.005)),
    ],
)
def test_where_it_is_none(of: list[Disagreement], found: Simulated) -> None:
    real = Side()
    assert with_own(context(real), [UNSURE], found, of).candidates == (UNSURE,)
    assert real.asked == []


def test_another_batch_is_named_with_what_is_sure() -> None:
    found = with_own(
        context(), [SURE, UNSURE], simulated(), [own(OTHER_BATCH, cause="batch-variance")]
    ).candidates
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
        context(where=where), [SURE], simulated(), [own(OTHER_BATCH, cause="batch-variance")]
    ).candidates
    assert ids(found) == ["norm-precision", "rope-theta"]


def test_dropout_is_disabled_on_trial() -> None:
    real = Side(EXPECTED)
    (cause,) = with_own(context(real), [UNSURE], simulated(), [own(AGAIN)]).candidates
    assert cause.id == "dropout-active"
    assert [(c.before, c.after) for c in cause.confirmed_by] == [(0.5, 0.0)]
    ((spec, train_mode),) = real.asked
    assert spec.no_dropout
    assert not train_mode


@pytest.mark.parametrize("answer", [None, WRONG])
def test_a_trial_that_fails_or_changes_nothing_confirms_nothing(answer: Capture | None) -> None:
    found = with_own(context(Side(answer)), [SURE, UNSURE], simulated(), [own(AGAIN)]).candidates
    assert ids(found) == ["dropout-active", "rope-theta"]
    assert found[0].confirmed_by == []


def test_in_training_mode_both_passes_are_compared_again() -> None:
    # With dropout disabled the passes are 0.125 apart on one of two tokens.
    real = Side(EXPECTED, answered([-1.0, -2.125]))
    (cause,) = in_training_mode(context(real), [own(AGAIN), own(TRAINING, 0.4)], ())
    assert cause.id == "dropout-active"
    assert [train_mode for _, train_mode in real.asked] == [False, True]
    assert [(c.before, c.after) for c in cause.confirmed_by] == [(0.4, 0.0625)]


def test_in_training_mode_a_trial_that_fails_confirms_nothing() -> None:
    (cause,) = in_training_mode(context(Side(EXPECTED, None)), [own(TRAINING)], ())
    assert cause.confirmed_by == []


def test_what_is_known_already_is_not_named_again() -> None:
    assert in_training_mode(context(), [own(TRAINING)], ["dropout-active"]) == []


def test_what_is_left_without_dropout_is_looked_for() -> None:
    # 0.25 nats on both tokens are left, and on the grid of no format; nothing can be altered here.
    half = answered([-1.25, -2.25])
    found = with_own(context(Side(half)), [UNSURE], simulated(), [own(AGAIN)]).candidates
    assert ids(found) == ["dropout-active"]
    assert found[0].confirmed_by[0].after == 0.25
