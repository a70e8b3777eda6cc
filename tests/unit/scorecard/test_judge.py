"""Truths against verdicts made by hand."""

from __future__ import annotations

import pytest

from mismatch_lab.schema import Cause
from mismatch_lab.scorecard.judge import judge, same_place
from mismatch_lab.scorecard.records import Case, Kind, Truth


def cause(name: str, side: str = "train", confidence: float = 0.9, **more: str | None) -> Cause:
    fields = {"family": "attention", "location": None} | more
    return Cause.model_validate(
        {"id": name, "side": side, "confidence": confidence, "evidence": [], **fields}
    )


def truth(name: str, side: str = "train", **more: object) -> Truth:
    fields: dict[str, object] = {"families": ("attention",), "location": None} | more
    given = {"fault": name, "severity": "plain", "causes": (name,), "sides": (side,), **fields}
    return Truth.model_validate(given)


def case(kind: Kind, *truths: Truth) -> Case:
    control = "float32" if kind == "control" else None
    return Case(
        id="c", kind=kind, model="m", dtype="float32", engine="vllm", truths=truths, control=control
    )


SINKS = truth("sinks", location="model.layers.0.self_attn")


def test_everything_right() -> None:
    found = judge(
        case("single", SINKS),
        "mismatch",
        [cause("sinks", location="model.layers.0.self_attn", confidence=0.97), cause("theta")],
    )
    assert found.detected
    assert (found.family, found.side, found.cause, found.location) == (True, True, True, True)
    assert (found.tied, found.extra, found.named, found.confidence) == (False, 1, "sinks", 0.97)


def test_an_honest_tie_is_right_and_said_to_be_one() -> None:
    tied = [cause("theta"), cause("sinks"), cause("window", confidence=0.1)]
    found = judge(case("single", SINKS), "mismatch", tied)
    assert (found.cause, found.tied, found.named) == (True, True, "sinks")
    assert found.extra == 1  # window; theta is tied with the right one
    lost = [cause("sinks", confidence=0.89), cause("theta")]
    assert judge(case("single", SINKS), "mismatch", lost[::-1]).cause is False  # 0.89 is not 0.9


def test_the_right_family_on_the_wrong_side() -> None:
    found = judge(case("single", SINKS), "mismatch", [cause("window", "infer")])
    assert (found.family, found.side, found.cause, found.location) == (True, False, False, False)


@pytest.mark.parametrize("status", ["mismatch", "numerics", "match"])
def test_nothing_named(status: str) -> None:
    floor = [cause("numerics-floor")] if status == "numerics" else []
    found = judge(case("single", SINKS), status, floor)  # type: ignore[arg-type]
    assert found.detected is (status == "mismatch")
    assert (found.family, found.side, found.cause, found.location) == (False,) * 4
    assert found.named == {"mismatch": "mismatch, unnamed", "numerics": "numerics-floor"}.get(
        status, status
    )


@pytest.mark.parametrize(
    ("planted", "named", "right"),
    [
        ("model.layers.2.self_attn", "model.layers.2.self_attn", True),
        ("model.layers.2.self_attn", "model.layers.2.self_attn.q_proj", True),
        ("model.layers.2.self_attn", "model.layers.2.mlp", True),  # the same layer
        ("model.layers.2.self_attn", "model.layers.20.self_attn", False),
        ("lm_head", "lm_head", True),
        ("lm_head", "lm_head_norm", False),
        ("lm_head", None, False),
        (None, "lm_head", None),  # no place: not asked
    ],
)
def test_places(planted: str | None, named: str | None, right: bool | None) -> None:
    assert same_place(planted, named) is right


def test_a_control_must_not_be_called_a_mismatch_nor_be_given_a_cause() -> None:
    healthy = case("control")
    assert judge(healthy, "match", []).false_alarm is False
    assert judge(healthy, "numerics", [cause("numerics-floor")]).false_alarm is False
    assert judge(healthy, "mismatch", []).false_alarm is True
    alarm = judge(healthy, "numerics", [cause("theta")])
    assert (alarm.false_alarm, alarm.named, alarm.extra) == (True, "theta", 1)


def test_of_a_double_fault_both_are_asked_for() -> None:
    planted = case("double", SINKS, truth("window", "infer"))
    both = [cause("theta"), cause("window", "infer", 0.5), cause("sinks", confidence=0.4)]
    found = judge(planted, "mismatch", both)
    assert (found.both, found.cause, found.side, found.extra) == (True, True, True, 1)
    assert found.named == "sinks + window"
    one = judge(planted, "mismatch", [cause("window", "train")])
    assert (one.both, one.cause, one.side, one.extra) == (False, True, False, 0)
    none = judge(planted, "match", [])
    assert (none.both, none.cause, none.detected) == (False, False, False)


def test_one_name_does_not_stand_for_two_faults() -> None:
    either = ("router-precision", "routing-flips")
    planted = case("double", truth("a", causes=either), truth("b", causes=either))
    assert judge(planted, "mismatch", [cause("routing-flips")]).both is False
    named = [cause("routing-flips"), cause("router-precision")]
    assert judge(planted, "mismatch", named).both is True


PLACE = "model.layers.2.mlp"
NAMELESS = truth("gelu", causes=("unlisted", "sinks"), families=("mlp",), location=PLACE)


@pytest.mark.parametrize(
    ("causes", "side", "module", "right"),
    [
        ([], "train", PLACE, True),
        ([], "infer", PLACE, False),
        ([], "train", "model.layers.1.mlp", False),
        ([cause("theta", confidence=0.5)], "train", PLACE, True),  # said to be a guess
        ([cause("theta", confidence=0.51)], "train", PLACE, False),  # sure, and another family
        ([cause("gate", confidence=0.9, family="mlp", location=PLACE)], "train", None, True),
        ([cause("sinks", location=PLACE)], "train", None, True),  # also accepted by name
    ],
)
def test_what_has_no_name_must_not_surely_be_given_another(
    causes: list[Cause], side: str, module: str | None, right: bool
) -> None:
    found = judge(case("single", NAMELESS), "mismatch", causes, (side, module))
    assert (found.detected, found.cause) == (True, right)


def test_what_has_no_name_must_be_seen() -> None:
    found = judge(case("single", NAMELESS), "numerics", [cause("numerics-floor")])
    assert (found.detected, found.cause, found.family, found.side) == (False,) * 4
