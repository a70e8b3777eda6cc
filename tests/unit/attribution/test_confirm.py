"""What an experiment on the side makes of causes: the error is 0.5 nats, noise is 0.01."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from builders import NAN, FakeSimulator, a_suspect, answered, run_of, side

from mismatch_lab.attribution.candidates import build_cause
from mismatch_lab.attribution.confirm import confirmed, without_cause
from mismatch_lab.attribution.context import Context, Measured
from mismatch_lab.attribution.experiments.base import Trial
from mismatch_lab.attribution.thresholds import CONFIDENCE
from mismatch_lab.attribution.trials import SCORED, Trials
from mismatch_lab.captures.capture import Capture
from mismatch_lab.errors import EngineError
from mismatch_lab.schema import Cause, RunSpec, Sampling

EXPECTED = [NAN, -1.0, -2.0]
TRAIN = a_suspect([NAN, -1.5, -2.5], EXPECTED, noise_nats=0.01)
DECODE = a_suspect([NAN, -1.5, -2.5], EXPECTED, noise_nats=0.01, suspect="decode")
PATCHED = run_of(side("train", engine="hf", plugin="p.py:f"))


class Side:
    """Leaves an error of so many nats for every trial in turn; None cannot be run."""

    def __init__(self, *left: float | None) -> None:
        self.left = list(left)
        self.asked: list[Trial] = []

    def __call__(self, trial: Trial) -> dict[str, Capture]:
        self.asked.append(trial)
        left = self.left.pop(0)
        if left is None:
            raise EngineError("cannot be run")
        wrong, right = answered([-1.0 - left, -2.0 - left]), answered([-1.0, -2.0])
        return {SCORED: wrong} if trial.sampling is None else {"decode": wrong, "prefill": right}


def context(real: Side, run: RunSpec = PATCHED) -> Context:
    floor: Any = None  # of no interest here
    found = Measured({}, {}, floor, None, {})
    return Context.of(run, found, FakeSimulator({}), Trials(real, lambda event: None))


def cause(id: str, confidence: float = 0.9, decides: str = "") -> Cause:
    return build_cause(id, "train", confidence, "", [], decides=decides)


def tie(*ids: str) -> list[Cause]:
    return [cause(id, 0.9 / len(ids), "an experiment") for id in ids]


def told(causes: Sequence[Cause]) -> list[tuple[str, float]]:
    return [(one.id, one.confidence) for one in causes]


def test_a_cause_whose_effect_goes_is_confirmed() -> None:
    real = Side(0.02)
    (one,) = confirmed(context(real), TRAIN, [cause("norm-precision")]).candidates
    assert [(c.before, pytest.approx(c.after)) for c in one.confirmed_by] == [(0.5, 0.02)]
    assert real.asked[0].spec.stock == ("*norm*",)


def test_a_patch_that_the_experiment_does_not_reach_says_nothing() -> None:
    real = Side(0.5, 0.5)
    named = cause("norm-precision")
    assert confirmed(context(real), TRAIN, [named]).candidates == (named,)


def test_an_effect_that_had_to_go_and_stays_is_a_doubt() -> None:
    (one,) = confirmed(context(Side(0.5)), TRAIN, [cause("dropout-active")]).candidates
    assert one.confidence == CONFIDENCE.effect_stayed


def test_of_two_causes_each_need_take_away_only_its_part() -> None:
    both = [cause("norm-precision"), cause("logit-scale")]
    found = confirmed(context(Side(0.3, 0.2)), TRAIN, both).candidates
    assert [len(one.confirmed_by) for one in found] == [1, 1]
    alone = confirmed(context(Side(0.3)), TRAIN, [cause("norm-precision")]).candidates
    assert alone[0].confirmed_by == []  # 0.3 of 0.5 is no end of an only cause


def test_a_tie_is_broken_by_what_only_one_predicts() -> None:
    after = confirmed(context(Side(0.001)), TRAIN, tie("norm-precision", "logit-scale"))
    found = after.candidates
    assert told(found) == [("logit-scale", 0.9)]
    assert found[0].decides == ""
    assert found[0].confirmed_by[0].after == pytest.approx(0.001, rel=1e-3)
    assert [r.id for r in after.ruled_out] == ["norm-precision"]


def test_a_tie_that_no_trial_can_break_is_left() -> None:
    pair = tie("norm-precision", "logit-scale")
    assert confirmed(context(Side(None, None)), TRAIN, pair).candidates == tuple(pair)
    assert confirmed(context(Side(0.15, 0.15)), TRAIN, pair).candidates == tuple(
        pair
    )  # neither gone nor there


def test_sampling_is_judged_by_both_passes_of_the_new_run() -> None:
    run = run_of(infer=side("infer", engine="vllm"))
    probe = run.probe.model_copy(update={"sampling": Sampling(temperature=0.6)})
    real = Side(0.0)
    found = confirmed(
        context(real, run.model_copy(update={"probe": probe})),
        DECODE,
        tie("raw-logprobs-temperature", "kv-cache-quantisation"),
    ).candidates
    assert told(found) == [("raw-logprobs-temperature", 0.9)]
    assert real.asked[0].sampling == Sampling(temperature=1.0)


def test_an_error_without_a_cause_is_still_traced_to_what_takes_it_away() -> None:
    said = without_cause(context(Side(0.5, 0.5, 0.0)), TRAIN)
    assert said is not None
    assert "gone (0.5 -> 0 nats)" in said
    assert without_cause(context(Side(0.5, 0.5, 0.4)), TRAIN) is None


def test_a_place_without_a_name_is_put_back_alone() -> None:
    real = Side(0.0)
    unknown = build_cause(
        "unlisted", "train", 0.6, "", [], location="model.layers.1.self_attn.o_proj"
    )
    (one,) = confirmed(context(real), TRAIN, [unknown]).candidates
    assert real.asked[0].spec.stock == ("model.layers.1.self_attn.o_proj", "config")
    assert one.confidence == 0.9


def test_a_name_for_the_same_place_has_its_share_of_the_confidence() -> None:
    place = "model.layers.1.self_attn"
    unknown = build_cause("unlisted", "train", 0.6, "", [], location=place)
    sinks = build_cause("attention-sinks-dropped", "train", 0.7, "", [], location=place)
    found = confirmed(context(Side(0.0, 0.0)), TRAIN, [unknown, sinks]).candidates
    # The place is sure; 0.7 of it has a name.
    assert told(found) == [("attention-sinks-dropped", 0.7), ("unlisted", 0.3)]


def test_a_place_that_is_only_part_of_the_error_is_not_sure() -> None:
    place = "model.layers.1.self_attn"
    unknown = build_cause("unlisted", "train", 0.6, "", [], location=place)
    (one,) = confirmed(context(Side(0.3)), TRAIN, [unknown]).candidates  # of 0.5 nats
    assert one.confidence == 0.6
    assert one.confirmed_by[-1].after == pytest.approx(0.3)
