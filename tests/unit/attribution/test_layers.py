"""A defect in some of four layers: each true layer, and each wrong one, is worth 0.4 nats."""

from __future__ import annotations

import pytest
from builders import a_fit, altered_by

from mismatch_lab.attribution.fit import Fit
from mismatch_lab.attribution.hypotheses import Explanation, Hypothesis, RowChange, Search
from mismatch_lab.attribution.layers import by_layers

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
        "rope_theta", "rope-theta", part="self_attn", search=Search((0.1, 0.2)), fitted=1
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
