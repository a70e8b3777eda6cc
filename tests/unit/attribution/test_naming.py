"""From fits and patterns to causes: numbers, sides and places, not wording."""

from __future__ import annotations

import numpy as np
import pytest
from builders import NAN, a_fit, a_suspect, altered_by, features, rows_of, searched

from mismatch_lab.attribution.causes import load_cause
from mismatch_lab.attribution.explain import Simulated
from mismatch_lab.attribution.fit import Fit, Unseen
from mismatch_lab.attribution.hypotheses import Hypothesis, TokenChange
from mismatch_lab.attribution.naming import (
    cause_observed,
    cause_of_weights,
    constants_of,
    fallback_decode,
    named_causes,
)
from mismatch_lab.attribution.observed_causes import Observed
from mismatch_lab.attribution.predictions import PREDICTIONS
from mismatch_lab.attribution.rank import not_ruled_out, ruled_out
from mismatch_lab.attribution.search import Outcome
from mismatch_lab.attribution.self_disagreement import Disagreement, own_cause
from mismatch_lab.attribution.token_patterns import TokenPattern
from mismatch_lab.attribution.value_grids import ValueGrid, cause_of_grid
from mismatch_lab.schema import Localisation

SUSPECT = a_suspect([NAN, -1.0, -2.0], [NAN, -2.0, -3.0], noise_nats=0.01)
THETA = altered_by(
    "rope_theta", "rope-theta", part="self_attn", location="model.layers.0.self_attn"
)
SCALE = searched("logit-scale", (1.0, 2.0)).at(1.25)


def simulated(
    best: Fit | None = None,
    *ties: Fit,
    patterns: list[TokenPattern] | None = None,
    tried: dict[str, Fit] | None = None,
) -> Simulated:
    return Simulated(SUSPECT, patterns or [], Outcome(best, list(ties), tried or {}), left_nats=0.5)


def localised(module: str, side: str = "train") -> Localisation:
    return Localisation.model_validate(
        {
            "depth": "standard", "method": "", "first_divergent_module": module, "side": side,
            "per_module": [],
        }
    )  # fmt: skip


def test_an_explanation_down_to_the_noise_is_sure() -> None:
    (cause,) = named_causes(simulated(a_fit((THETA,), 0.005, unseen=Unseen(3, 0.9, 0.004))), None)
    assert (cause.id, cause.side, cause.confidence) == ("rope-theta", "train", 0.98)
    assert cause.location == "model.layers.0.self_attn"
    assert cause.family == "attention"
    (seen,) = cause.confirmed_by
    assert (seen.before, seen.after, seen.by) == (0.9, 0.004, "unseen rows")
    assert "3 rows" in seen.experiment
    assert cause.evidence[0].value == pytest.approx(0.995)
    entry = load_cause("rope-theta")
    assert cause.remedy is not None
    assert (cause.remedy.id, cause.remedy.how) == (None, entry.remedy)


@pytest.mark.parametrize(
    # 0.2 + 0.8 * 0.5 = 0.6; 0.2 + 0.8 * 0.98 is above the ceiling of 0.95.
    ("left", "confidence"), [(0.5, 0.6), (0.02, 0.95), (0.72, 0.424)],
)  # fmt: skip
def test_otherwise_as_sure_as_the_error_is_gone(left: float, confidence: float) -> None:
    (cause,) = named_causes(simulated(a_fit((THETA,), left)), None)
    assert cause.confidence == pytest.approx(confidence)


def test_what_explains_little_names_nothing() -> None:
    assert named_causes(simulated(a_fit((THETA,), 0.73)), None) == []
    assert named_causes(simulated(), None) == []


def test_ties_share_the_confidence_and_say_what_decides() -> None:
    first, second = named_causes(simulated(a_fit((THETA,), 0.005), a_fit((SCALE,), 0.006)), None)
    assert (first.id, second.id) == ("rope-theta", "logit-scale")
    assert first.confidence == second.confidence == 0.49
    assert first.decides == load_cause("rope-theta").confirmation


def test_two_causes_together_are_both_sure() -> None:
    found = named_causes(simulated(a_fit((THETA, SCALE), 0.005)), None)
    assert [(c.id, c.confidence) for c in found] == [("rope-theta", 0.98), ("logit-scale", 0.98)]
    assert all("together" in c.evidence[0].observation for c in found)
    assert "1.25" in found[1].why
    assert found[0].decides == ""


def test_the_engine_is_named_for_its_sampling() -> None:
    decode = a_suspect([-1.0], [-2.0], noise_nats=0.01, suspect="decode")
    sampled = Simulated(decode, [], Outcome(a_fit((SCALE,), 0.005)))
    assert [cause.side for cause in named_causes(sampled, None)] == ["infer"]


@pytest.mark.parametrize(
    ("module", "side", "place"),
    [
        ("model.layers.3.self_attn.q_proj", "train", "model.layers.3.self_attn.q_proj"),
        ("model.layers.3.self_attn", "infer", "model.layers.0.self_attn"),
        ("model.layers.3.mlp", "train", "model.layers.0.self_attn"),
    ],
)
def test_a_nearer_place_is_taken_where_modules_agree(module: str, side: str, place: str) -> None:
    (cause,) = named_causes(simulated(a_fit((THETA,), 0.005)), localised(module, side))
    assert cause.location == place


def test_patterns_come_first() -> None:
    pattern = TokenPattern("sentinel-values", np.array([False, True, True]), -1.0, 1.5)
    first, second = named_causes(simulated(a_fit((THETA,), 0.5), patterns=[pattern]), None)
    assert (first.id, first.confidence) == ("sentinel-values", 0.95)
    assert [e.value for e in first.evidence] == [2, 1.5]
    assert first.confirmed_by[0].after == 0.5
    assert second.id == "rope-theta"


def test_constants_of_a_side_that_nothing_else_speaks_against() -> None:
    rows = rows_of(3)
    (cause,) = constants_of(a_suspect([NAN, -1.5, -100.0], [NAN, -1.5, -2.0]), rows)
    assert cause.id == "terminal-token"  # it is the row's last
    assert constants_of(a_suspect([NAN, -1.5, -2.0], [NAN, -1.5, -2.0]), rows) == []


def test_weights_that_are_not_the_checkpoints() -> None:
    tensors = ("a.q.weight", "b.q.weight", "c", "d", "e")
    cause = cause_of_weights(SUSPECT, tensors, ("stale-tensor", "why"), 0.85)
    assert (cause.id, cause.location, cause.evidence[0].value) == ("stale-tensor", "a.q.weight", 5)
    tied = ("lm_head.weight", "model.embed_tokens.weight")
    of_both = cause_of_weights(SUSPECT, tied, ("stale-tensor", "why"), 0.85)
    assert of_both.location == "model.embed_tokens.weight"
    of_head = cause_of_weights(SUSPECT, tied[:1], ("stale-tensor", "why"), 0.85)
    assert of_head.location == "lm_head.weight"
    quantised = cause_of_weights(SUSPECT, tensors, ("weight-quantisation", "why"), 0.85)
    assert quantised.location == "a.q"


def test_a_coarse_format() -> None:
    hypothesis = Hypothesis("logprob-precision", "bf16", tokens=(TokenChange("through_bfloat16"),))
    cause = cause_of_grid(SUSPECT, ValueGrid(hypothesis, 0.99, 400), 0.25)
    assert (cause.id, cause.confidence, cause.side) == ("logprob-precision", 0.97, "train")
    assert (cause.confirmed_by[0].before, cause.confirmed_by[0].after) == (1.0, 0.25)


def test_what_was_observed_is_named_as_it_was() -> None:
    cause = cause_observed(SUSPECT, Observed("router-bias", 0.9, "x", [], "why"))
    assert (cause.id, cause.confidence, cause.location) == ("router-bias", 0.9, "x")


def test_unexplained_sampling_after_an_update_is_a_tie() -> None:
    tied = fallback_decode(simulated(), updated=True, scoring_explained=True)
    assert [(c.id, c.confidence) for c in tied] == [
        ("stale-prefix-cache", 0.5),
        ("decode-prefill-divergence", 0.5),
    ]
    assert all(c.decides for c in tied)
    (fallback,) = fallback_decode(simulated(), updated=False, scoring_explained=True)
    assert (fallback.id, fallback.side) == ("decode-prefill-divergence", "infer")
    assert fallback.evidence[0].value == 1.0


def test_a_trainer_against_itself_is_placed_by_its_own_modules() -> None:
    own = Disagreement("dropout-active", "train_repeat", 0.1, [])
    assert own_cause(own, localised("model.layers.0.mlp")).location == "model.layers.0.mlp"
    assert own_cause(own, localised("model.layers.0.mlp", "infer")).location is None
    assert own_cause(own, None).side == "train"


def test_ruled_out_are_the_others_the_nearest_first() -> None:
    tried = {
        "rope-theta": a_fit((THETA,), 0.9),
        "logit-scale": a_fit((SCALE,), 0.5),
        "norm-precision": a_fit((altered_by("norm_dtype", "norm-precision"),), 1.5),
    }
    found = simulated(tried=tried)
    # Half of the error is too much to be ruled out, though nothing is named for it.
    assert [r.id for r in ruled_out(found, [])] == ["rope-theta", "norm-precision"]
    assert "logit-scale (50%)" in str(not_ruled_out(found, []))
    shown = ruled_out(found, ["logit-scale"])
    assert [r.id for r in shown] == ["rope-theta", "norm-precision"]
    assert "10%" in shown[0].because
    assert " 0%" in shown[1].because  # never less than nothing
    assert not_ruled_out(found, ["logit-scale"]) is None


def test_what_explains_half_as_much_as_the_named_is_not_ruled_out() -> None:
    tried = {
        "logit-scale": a_fit((SCALE,), 0.2),  # 80 %
        "rope-theta": a_fit((THETA,), 0.55),  # 45 %: more than half of that
        "norm-precision": a_fit((altered_by("norm_dtype", "norm-precision"),), 0.65),  # 35 %
    }
    found = simulated(a_fit((SCALE,), 0.2), tried=tried)
    assert [r.id for r in ruled_out(found, ["logit-scale"])] == ["norm-precision"]
    assert "rope-theta (45%)" in str(not_ruled_out(found, ["logit-scale"]))


def test_a_cause_that_cannot_be_so_large_is_ruled_out_for_that() -> None:
    found = Simulated(SUSPECT, [], Outcome(implausible={"tf32-products": 0.44}))
    (said,) = ruled_out(found, [])
    assert said.id == "tf32-products"
    # Bits lost at 2^-11 of logits of 100 nats: 0.0488.
    assert "0.44 nats" in said.because
    assert "0.049" in said.because


def test_a_simulation_alone_confirms_nothing() -> None:
    (cause,) = named_causes(simulated(a_fit((THETA,), 0.005)), None)
    assert cause.confirmed_by == []


@pytest.mark.parametrize(("suspect", "side"), [("infer", "sync"), ("train", "train")])
def test_old_weights_of_an_engine_are_a_matter_of_their_delivery(suspect: str, side: str) -> None:
    (old,) = PREDICTIONS["stale-weights"](
        features(suspect, {}, weights_before="before", changed=("a", "b"))
    )
    wrong = a_suspect([-1.0], [-2.0], noise_nats=0.01, suspect=suspect)
    (cause,) = named_causes(Simulated(wrong, [], Outcome(a_fit((old,), 0.005))), None)
    assert (cause.id, cause.side) == ("stale-weights", side)


@pytest.mark.parametrize(
    ("known", "named"),
    [
        ({"rescored": False}, [("stale-weights", "sync", 0.49), ("stale-graph", "infer", 0.49)]),
        ({"rescored": False, "replays_graphs": False}, [("stale-weights", "sync", 0.98)]),
        ({}, [("stale-weights", "sync", 0.98)]),
    ],
)
def test_a_record_does_not_tell_old_weights_from_a_graph_that_holds_them(
    known: dict[str, bool], named: list[tuple[str, str, float]]
) -> None:
    (old,) = PREDICTIONS["stale-weights"](
        features("infer", {}, weights_before="before", changed=("a", "b"), **known)
    )
    wrong = a_suspect([-1.0], [-2.0], noise_nats=0.01, suspect="infer")
    causes = named_causes(Simulated(wrong, [], Outcome(a_fit((old,), 0.005))), None)
    assert [(c.id, c.side, c.confidence) for c in causes] == named
    assert [bool(c.decides) for c in causes] == [len(named) > 1] * len(named)
