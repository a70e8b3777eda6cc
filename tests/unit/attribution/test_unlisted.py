"""A side that no known cause explains: the module, and how its output is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import a_fit, a_suspect, answered

from mismatch_lab.attribution.hypotheses import Hypothesis
from mismatch_lab.attribution.unlisted import contradicted, unlisted_cause
from mismatch_lab.captures.capture import Capture
from mismatch_lab.schema import Alteration, Localisation, ModuleError

SUSPECT = a_suspect([-1.0], [-1.5], noise_nats=0.01)
ATTENTION = "model.layers.1.self_attn"


def located(name: str | None, side: str = "train") -> Localisation:
    module = ModuleError(
        name=name or "model.norm", kind="attention", cumulative=0.5, infer_error=0.1,
        train_error=0.5, floor=0.01, diverges=True, n=4,
    )  # fmt: skip
    return Localisation(
        depth="standard", method="", first_divergent_module=name, side=side, per_module=[module],
    )  # type: ignore[arg-type]  # fmt: skip


def tapped(output: list[float]) -> Capture:
    return replace(
        answered([-1.0, -1.0]),
        probe_positions=np.array([1, 2]),
        hidden={ATTENTION: np.array([output, output], np.float32)},
    )


def changes(location: str | None, *, model: bool = True) -> Hypothesis:
    return Hypothesis("x", "x", (Alteration(name="x"),) if model else (), location=location)


def test_the_first_wrong_module_with_its_length_and_angle() -> None:
    # [3, 0] against [1, 1]: 3 / sqrt(2) times as long, at 45 degrees.
    captures = {"train_on_infer": tapped([3.0, 0.0]), "ref_on_infer": tapped([1.0, 1.0])}
    found = unlisted_cause(SUSPECT, captures, located(ATTENTION), {})
    assert found is not None
    assert (found.id, found.family, found.side) == ("unlisted", "attention", "train")
    assert found.location == ATTENTION
    assert [e.value for e in found.evidence] == pytest.approx([0.5, 3 / 2**0.5, 0.5**0.5])


@pytest.mark.parametrize(
    ("module", "config", "family"),
    [
        ("model.layers.0.mlp.experts", {"num_local_experts": 8}, "moe"),
        ("model.layers.0.mlp", {}, "semantics"),
        ("model.layers.0.input_layernorm", {}, "precision"),
        ("lm_head", {"num_experts": 8}, "semantics"),
    ],
)
def test_the_family_is_the_modules(module: str, config: dict[str, int], family: str) -> None:
    captures = {"train_on_infer": answered([-1.0]), "ref_on_infer": answered([-1.0])}
    found = unlisted_cause(SUSPECT, captures, located(module), config)
    assert found is not None
    assert found.family == family


def test_without_a_wrong_module_on_this_side_there_is_none() -> None:
    for where in (None, located(None), located(ATTENTION, "infer")):
        assert unlisted_cause(SUSPECT, {}, where, {}) is None


@pytest.mark.parametrize(
    ("location", "against"),
    [
        ("lm_head", True),
        ("model.layers.2.self_attn", True),
        (f"{ATTENTION}.sinks", False),  # the very module
        ("model.layers.0.mlp", False),  # before it
        (None, False),  # anywhere
    ],
)
def test_what_acts_after_the_first_wrong_module_is_not_its_cause(
    location: str | None, against: bool
) -> None:
    poor, good = (a_fit((changes(location),), residual) for residual in (0.5, 0.1))
    assert contradicted(poor, SUSPECT, located(ATTENTION)) is against
    assert not contradicted(good, SUSPECT, located(ATTENTION))  # 0.9 of the error explained
    assert not contradicted(poor, SUSPECT, None)


def test_a_change_of_distributions_acts_after_the_head() -> None:
    assert contradicted(a_fit((changes(None, model=False),), 0.5), SUSPECT, located(ATTENTION))
    both = (changes("lm_head"), changes(ATTENTION))
    assert not contradicted(a_fit(both, 0.5), SUSPECT, located(ATTENTION))
