"""The search, in a world where each cause adds a change of its own to four tokens at -1 nat.

A defect in some of four layers: each true layer, and each wrong one, is worth 0.4 nats.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import NAN, AdditivePredictor, a_fit, altered_by, searched

from mismatch_lab.attribution.changes import Float64
from mismatch_lab.attribution.fit import Fit
from mismatch_lab.attribution.hypotheses import Explanation, FreeNumber, Hypothesis, RowChange
from mismatch_lab.attribution.search import Outcome, Search, by_layers, finite_mean_abs

EXPECTED = np.full(4, -1.0)
# Rows of a Hadamard matrix: no change shares anything with another.
CHANGES = {
    "logit-scale": np.array([0.4, 0.4, 0.4, 0.4]),
    "rope-theta": np.array([0.4, -0.4, 0.4, -0.4]),
    "norm-precision": np.array([0.4, 0.4, -0.4, -0.4]),
}


def plain(cause: str) -> Hypothesis:
    return altered_by(cause, cause)


def pursue(
    seen: Float64, hypotheses: list[Hypothesis], more: dict[str, Float64] | None = None,
    budget: int | None = None, first_wrong_part: str = "",
) -> Outcome:  # fmt: skip
    predictor = AdditivePredictor(EXPECTED, CHANGES | (more or {}), budget)
    search = Search(predictor, EXPECTED, EXPECTED + seen, np.array([0, 0, 1, 1]), 0.01, ())
    return search.run(hypotheses, first_wrong_part)


def causes(outcome: Outcome) -> list[str]:
    assert outcome.best is not None
    return [h.cause for h in outcome.best.explanation]


ALL = [plain(cause) for cause in CHANGES]


def test_one_cause_is_found_and_the_others_are_judged() -> None:
    found = pursue(CHANGES["rope-theta"], ALL)
    assert causes(found) == ["rope-theta"]
    assert found.ties == []
    assert found.finished
    assert {cause: fit.explained for cause, fit in found.tried.items()} == pytest.approx(
        # 0.8 on two tokens and nothing on the others is as much as 0.4 on all.
        {"rope-theta": 1, "logit-scale": 0, "norm-precision": 0}
    )


def test_what_explains_nothing_is_no_answer_because_little_is_left_anyway() -> None:
    """On few rows the whole error may be less than the noise that all of them may have."""
    small = {
        cause: 0.02 * change for cause, change in CHANGES.items()
    }  # 0.008 nats; the noise 0.01
    found = pursue(small["norm-precision"], [plain("logit-scale"), plain("norm-precision")], small)
    assert causes(found) == ["norm-precision"]
    assert found.ties == []


def test_a_cause_is_not_larger_than_it_can_be() -> None:
    tf32 = {"tf32-products": CHANGES["rope-theta"]}  # 0.4 nats; it moves log-probs by 0.049 at most
    found = pursue(CHANGES["rope-theta"], [plain("tf32-products")], tf32)
    assert found.best is None
    assert found.implausible == {"tf32-products": pytest.approx(0.4)}


def test_two_causes_that_predict_alike_are_tied() -> None:
    twin = {"rope-scaling": CHANGES["rope-theta"] + 1e-3}
    found = pursue(CHANGES["rope-theta"], [*ALL, plain("rope-scaling")], twin)
    assert causes(found) == ["rope-theta"]
    assert [[h.cause for h in tie.explanation] for tie in found.ties] == [["rope-scaling"]]


def test_of_two_that_explain_alike_the_one_without_fitted_numbers_is_preferred() -> None:
    # Exact with a fitted number; off by 0.001 nats, which is noise, without.
    twin = {"rope-scaling": CHANGES["rope-theta"] + 1e-3}
    fitted = searched("rope-theta", (1.0,))
    found = pursue(CHANGES["rope-theta"], [fitted, plain("rope-scaling")], twin)
    assert causes(found) == ["rope-scaling"]
    assert found.ties == []


def test_two_causes_at_once() -> None:
    found = pursue(CHANGES["rope-theta"] + CHANGES["logit-scale"], ALL)
    assert sorted(causes(found)) == ["logit-scale", "rope-theta"]
    assert found.best is not None
    assert found.best.residual_nats == pytest.approx(0)


def test_no_cause_is_combined_with_itself() -> None:
    predictor = AdditivePredictor(EXPECTED, CHANGES)
    seen = EXPECTED + CHANGES["rope-theta"] + CHANGES["logit-scale"]
    Search(predictor, EXPECTED, seen, np.zeros(4, int), 0.01, ()).run(ALL)
    assert any(len(asked) == 2 for asked in predictor.asked)
    assert all(len(set(asked)) == len(asked) for asked in predictor.asked)


def test_three_causes_at_once_two_with_numbers() -> None:
    hypotheses = [
        plain("norm-precision"),
        searched("rope-theta", (1.0, 2.0)),
        searched("logit-scale", (2.0, 4.0)),
    ]
    seen = 4 * CHANGES["logit-scale"] + 2 * CHANGES["rope-theta"] + CHANGES["norm-precision"]
    # Of a mean of 1.6 nats 0.8 are left by the first, 0.4 by the second, nothing by the third.
    found = pursue(seen, hypotheses)
    assert sorted(causes(found)) == ["logit-scale", "norm-precision", "rope-theta"]
    assert found.best is not None
    assert found.best.residual_nats == pytest.approx(0)


def test_a_further_cause_that_adds_little_is_not_named() -> None:
    small = {"rope-scaling": np.array([0.02, -0.02, -0.02, 0.02])}
    seen = CHANGES["logit-scale"] + 3 * small["rope-scaling"]
    # 0.06 nats are left of the first cause, 0.04 with the second: more than 60 %.
    found = pursue(seen, [*ALL, plain("rope-scaling")], small)
    assert causes(found) == ["logit-scale"]


def test_nothing_that_helps_is_no_answer() -> None:
    found = pursue(np.array([0.4, -0.4, -0.4, 0.4]), ALL)
    assert found.best is None
    assert len(found.tried) == 3


def test_what_does_not_apply_is_not_judged() -> None:
    found = pursue(CHANGES["rope-theta"], [plain("vocab-padding"), *ALL])
    assert "vocab-padding" not in found.tried
    assert causes(found) == ["rope-theta"]


def test_of_one_cause_the_best_of_several_hypotheses_is_kept() -> None:
    found = pursue(CHANGES["rope-theta"], [searched("rope-theta", (0.5,)), plain("rope-theta")])
    assert found.tried["rope-theta"].explained == pytest.approx(1)


def test_when_the_budget_ends_the_best_so_far_is_told() -> None:
    # The second hypothesis is right; there is no time for the third.
    found = pursue(CHANGES["rope-theta"], ALL, budget=2)
    assert not found.finished
    assert causes(found) == ["rope-theta"]
    assert set(found.tried) == {"logit-scale", "rope-theta"}
    nothing = pursue(CHANGES["rope-theta"], ALL, budget=0)
    assert (nothing.finished, nothing.best, nothing.tried) == (False, None, {})


def test_what_acts_where_the_error_begins_is_tried_before_the_budget_ends() -> None:
    placed = [*ALL[:2], replace(ALL[2], part="self_attn")]
    seen = CHANGES["norm-precision"]
    # The last of three is right; there is time for one.
    assert pursue(seen, placed, budget=1).best is None
    found = pursue(seen, placed, budget=1, first_wrong_part="self_attn.o_proj")
    assert (causes(found), set(found.tried)) == (["norm-precision"], {"norm-precision"})
    # With time for all, the order says nothing.
    assert pursue(seen, placed, first_wrong_part="self_attn") == pursue(seen, placed)


@pytest.mark.parametrize(
    ("part", "wrong", "there"),
    [
        ("self_attn", "self_attn", True),
        ("self_attn", "self_attn.q_proj", True),
        ("mlp.experts", "mlp", True),
        ("mlp", "mlp_norm", False),
        ("self_attn", "", False),
        (None, "self_attn", False),
    ],
)
def test_where_it_acts(part: str | None, wrong: str, there: bool) -> None:
    assert replace(ALL[0], part=part).acts_in(wrong) is there


@pytest.mark.parametrize(
    ("noise_nats", "left", "enough"),
    [
        (0.01, 0.01, True),
        (0.01, 0.05, True),  # noise of half precision, and 95 % is gone
        (0.01, 0.06, False),
        (1e-5, 0.05, False),  # in float32 nothing but noise may be left
        (1e-5, 1e-5, True),
    ],
)
def test_when_nothing_but_noise_is_left(noise_nats: float, left: float, enough: bool) -> None:
    search = Search(
        AdditivePredictor(EXPECTED, {}),
        EXPECTED,
        EXPECTED,
        np.zeros(4, int),
        noise_nats,
        (),
    )
    assert search.enough(a_fit((ALL[0],), left)) is enough


def test_what_is_given_holds_in_every_prediction() -> None:
    predictor = AdditivePredictor(EXPECTED, CHANGES)
    search = Search(predictor, EXPECTED, EXPECTED, np.zeros(4, int), 0.01, (plain("logit-scale"),))
    search.judge((plain("rope-theta"),))
    assert predictor.asked == [("logit-scale", "rope-theta")]


def test_mean_of_finite_numbers() -> None:
    assert finite_mean_abs(np.array([NAN, -1.0, 2.0, np.inf])) == 1.5
    assert np.isnan(finite_mean_abs(np.array([NAN])))


ATTENTION = altered_by("drop_sinks", "attention-sinks-dropped", part="self_attn")
EVERY = (0, 1, 2, 3)


class Judge:
    """Knows the layers; with a number, also which."""

    def __init__(self, layers: set[int], name: str = "drop_sinks", value: float | None = None):
        self.layers = layers
        self.name = name
        self.value = value
        self.tried: list[tuple[int, ...]] = []

    def __call__(self, explanation: Explanation) -> Fit:
        alteration = explanation[-1].model[-1]
        assert alteration.layers is not None
        self.tried.append(alteration.layers)
        if alteration.name != self.name:
            return a_fit(explanation, 1.0, shared=0.0, slope=0.0)
        left = 0.4 * len(self.layers ^ set(alteration.layers))
        if self.value is not None:
            assert isinstance(alteration.value, int | float)
            left += abs(alteration.value - self.value)
        shared = 1.0 if self.layers & set(alteration.layers) else 0.0
        return a_fit(explanation, left, shared=shared)


def test_the_layers_are_found() -> None:
    found = by_layers(Judge({1, 3}), [ATTENTION], EVERY, 4)
    assert found is not None
    (hypothesis,) = found.explanation
    assert hypothesis.model[0].layers == (1, 3)
    assert hypothesis.location == "model.layers.1.self_attn"
    assert hypothesis.label.endswith("in layer 1, 3")
    assert hypothesis.fitted == 2
    assert found.residual_nats == pytest.approx(0)


def test_a_known_layer_is_where_it_begins() -> None:
    judge = Judge({1, 3})
    found = by_layers(judge, [ATTENTION], (3,), 4)
    assert found is not None
    assert found.explanation[0].model[0].layers == (1, 3)
    # Layer 2 is tried with layer 1, which helped, and not kept.
    assert judge.tried == [(3,), (0, 3), (1, 3), (1, 2, 3)]


def test_a_hypothesis_that_shares_nothing_is_not_carried_on() -> None:
    other = altered_by("rope_theta", "rope-theta", part="self_attn")
    judge = Judge({1})
    assert by_layers(judge, [other], EVERY, 4) is None
    assert judge.tried == [(0,), (1,), (2,), (3,)]
    found = by_layers(judge, [other, ATTENTION], EVERY, 4)
    assert found is not None
    assert found.explanation[0].cause == "attention-sinks-dropped"


def test_hypotheses_without_layers_are_left_out() -> None:
    rows = Hypothesis("logit-scale", "", rows=(RowChange("scale"),), part="mlp")
    assert by_layers(Judge({1}), [altered_by("head_dtype"), rows], EVERY, 4) is None


def test_the_number_found_in_one_layer_holds_in_the_others() -> None:
    hypothesis = altered_by(
        "rope_theta", "rope-theta", part="self_attn", search=FreeNumber((0.1, 0.2)), fitted=1
    )
    judge = Judge({0, 2}, "rope_theta", 0.2)
    found = by_layers(judge, [hypothesis], EVERY, 4)
    assert found is not None
    assert found.explanation[0].model[0].layers == (0, 2)
    assert found.explanation[0].value == 0.2
    assert found.fitted == 3  # the number and two layers


def test_of_a_deep_model_twelve_layers_at_most_are_tried_first() -> None:
    judge = Judge({4}, "none")
    by_layers(judge, [ATTENTION], tuple(range(30)), 30)
    assert judge.tried == [(layer,) for layer in range(0, 30, 3)]
