"""Causes in what was recorded: six tokens, one layer of four experts, noise of 0.01 nats."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import a_suspect, answered

from mismatch_lab.attribution.changes import Float64
from mismatch_lab.attribution.observed_causes import (
    coarse_module,
    misread_cause,
    observed_causes,
)
from mismatch_lab.attribution.token_patterns import FIRST_INPUT
from mismatch_lab.captures.capture import Capture
from mismatch_lab.schema import Localisation, ModuleError

LOGITS = [3.0, 2.0, 1.0, 0.0]
SUSPECT = a_suspect([-1.0], [-1.5], noise_nats=0.01)


def side(
    *chosen: tuple[int, int], logits: list[float] | None = None, logp: float = -1.0
) -> Capture:
    """Choices of the first tokens; those of the others are the top two."""
    every = [*chosen, *[(0, 1)] * (6 - len(chosen))]
    return replace(
        answered([logp, logp], [-1.0, -1.0]),
        router_topk=np.array(every, np.int16).reshape(6, 1, 2),
        router_logits=np.array([[logits or LOGITS]] * 6, np.float32),
    )


def localised(name: str, kind: str, error: float, at: str = "train") -> Localisation:
    module = ModuleError(
        name=name, kind=kind, cumulative=error, infer_error=0.001, train_error=error,
        floor=0.001, diverges=True, n=100,
    )  # fmt: skip
    return Localisation.model_validate(
        {
            "depth": "standard", "method": "", "first_divergent_module": name, "side": at,
            "per_module": [module],
        }
    )  # fmt: skip


def observed(train: Capture, where: Localisation | None = None, equal: bool = True) -> list[str]:
    found = observed_causes(SUSPECT, {"train": train, "ref": side()}, where, equal)
    return [one.cause for one in found]


def test_a_sound_side_shows_nothing() -> None:
    assert observed(side()) == []


def test_choices_against_the_own_logits_for_the_same_experts() -> None:
    biased = side((0, 2), (0, 2))
    assert observed(biased) == ["router-bias"]
    (found,) = observed_causes(SUSPECT, {"train": biased, "ref": side()}, None, True)
    assert found.location == "model.layers.0.mlp"
    assert observed(biased, equal=False) == []  # other weights explain that, too


def test_choices_against_the_own_logits_where_these_are_tied() -> None:
    tied = side((0, 2), (0, 1), logits=[3.0, 1.1, 1.0, 0.0])
    assert tied.router_logits is not None
    tied.router_logits[1, 0] = [3.0, 1.0, 1.1, 0.0]
    assert observed(tied) == ["routing-flips"]


def test_an_error_that_begins_at_the_routers() -> None:
    # The input at token 0 goes elsewhere; tokens 1 and 2, behind it, are the only wrong ones.
    other = side((2, 3), logp=-1.5)
    assert other.router_logits is not None
    other.router_logits[0, 0] = LOGITS[::-1]
    assert observed(other) == ["router-precision"]
    # Where modules were recorded, they decide.
    assert observed(other, localised("model.layers.0.mlp.router", "router", 0.01)) == [
        "router-precision"
    ]
    assert observed(other, localised("model.layers.0.self_attn", "attention", 0.01)) == []


@pytest.mark.parametrize(
    ("name", "kind", "error", "cause"),
    [
        ("model.layers.0.input_layernorm", "norm", 0.003, "norm-precision"),
        ("lm_head", "head", 0.003, "lm-head-precision"),
        ("model.layers.0.mlp.router", "router", 0.003, "router-precision"),
        ("model.layers.0.self_attn", "attention", 0.003, None),  # no cause by its size alone
        ("lm_head", "head", 0.1, None),  # 2^-5 = 0.03: more than rounding
        ("lm_head", "head", 0.0001, None),  # 2^-12 = 0.0002: less
    ],
)
def test_a_module_off_by_one_coarse_rounding(
    name: str, kind: str, error: float, cause: str | None
) -> None:
    found = coarse_module(SUSPECT, {}, localised(name, kind, error), weights_equal=True)
    assert (None if found is None else found.cause) == cause
    assert found is None or found.location == name


def test_a_clamp_or_a_scale_is_no_rounding() -> None:
    """Rounding moves every logit, a clamp one of ten; a scale moves them all one way."""

    def headed(logits: Float64) -> Capture:
        return replace(
            answered([-1.0, -1.0]),
            probe_positions=np.array([1, 2]),
            probe_logp=logits.astype(np.float32),
        )

    expected = np.tile(np.arange(10.0), (2, 1))
    clamped, rounded = expected.copy(), expected + 0.01 * np.tile([1.0, -1.0], (2, 5))
    clamped[:, 9] -= 0.03
    scaled = 1.003 * expected
    where = localised("lm_head", "head", 0.003)
    for wrong, named in ((clamped, None), (scaled, None), (rounded, "lm-head-precision")):
        captures = {"train_on_infer": headed(wrong), "ref_on_infer": headed(expected)}
        found = coarse_module(SUSPECT, captures, where, weights_equal=True)
        assert (None if found is None else found.cause) == named


def test_a_module_says_nothing_of_the_other_side_or_other_weights() -> None:
    where = localised("lm_head", "head", 0.003)
    assert coarse_module(SUSPECT, {}, where, weights_equal=False) is None
    assert coarse_module(replace(SUSPECT, name="infer"), {}, where, weights_equal=True) is None
    assert coarse_module(SUSPECT, {}, None, weights_equal=True) is None
    nowhere = where.model_copy(update={"first_divergent_module": None})
    assert coarse_module(SUSPECT, {}, nowhere, weights_equal=True) is None


@pytest.mark.parametrize(
    # Input 0 is the prompt's, input 1 the answer's.
    ("wrong", "cause"), [([0], "prompt-template"), ([1], "retokenisation"), ([], None)],
)  # fmt: skip
def test_tokens_read_as_others(wrong: list[int], cause: str | None) -> None:
    def tapped(inputs: Float64) -> Capture:
        return replace(
            answered([-1.0, -1.0]),
            probe_positions=np.array([1, 2]),
            hidden={FIRST_INPUT: inputs.astype(np.float32)},
        )

    read = np.eye(2)
    read[wrong] *= -1
    captures = {"train": tapped(read), "ref": tapped(np.eye(2))}
    found = misread_cause(SUSPECT, captures)
    assert (None if found is None else found.cause) == cause


@pytest.mark.parametrize(
    ("chosen", "named"),
    # Experts 2 for 1 twice: one way. 2 for 1 and 1 for 2, where the reference's logits are near.
    [([(0, 2), (0, 2)], "router-bias"), ([(0, 2), (0, 1)], "routing-flips"), ([], None)],
)
def test_choices_without_logits(chosen: list[tuple[int, int]], named: str | None) -> None:
    near = side((0, 1), (0, 2) if named == "routing-flips" else (0, 1), logits=[3.0, 1.1, 1.0, 0.0])
    captures = {
        "train": replace(side(*chosen), router_logits=None), "ref": near, "floor": near,
    }  # fmt: skip
    found = observed_causes(SUSPECT, captures, None, True)
    assert [one.cause for one in found] == ([] if named is None else [named])
    assert [one.confidence for one in found] == ([] if named is None else [0.6])
