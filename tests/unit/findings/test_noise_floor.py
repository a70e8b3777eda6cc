"""The noise floor: three ratios on captures whose deltas are written down."""

from __future__ import annotations

from math import sqrt

import pytest
from hand_made import capture

from mismatch_lab.captures.capture import Capture
from mismatch_lab.findings.edges import measure_edges
from mismatch_lab.findings.noise_floor import (
    SMALLEST,
    leaves_floor,
    leaves_typically,
    measure_floor,
)
from mismatch_lab.schema import Limits, NoiseFloor

LEVEL = {
    "decode": -1.75,
    "prefill": -1.5,
    "prefill_repeat": -1.5625,
    "train": -0.75,
    "train_micro_batch": -0.78125,
    "ref": -1.0,
    "floor": -1.125,
}
"""The log-prob of every token in each capture; exact in binary. The floor is 0.125 nats."""


def made(**changed: float) -> dict[str, Capture]:
    return {name: capture([v, v], [v], [v]) for name, v in (LEVEL | changed).items()}


def floor_of(captures: dict[str, Capture], dtype: str = "bfloat16") -> NoiseFloor | None:
    return measure_floor(captures, measure_edges(captures), dtype)


def test_each_side_and_the_edge_over_the_floor() -> None:
    found = floor_of(made())
    assert found is not None
    assert found.precision.value == 0.125
    assert found.infer_ratio.value == 4.0  # |-1.5 + 1| / 0.125
    assert found.train_ratio.value == 2.0  # |-0.75 + 1| / 0.125
    # Two errors of 0.125 add up to 0.125 sqrt 2; decode and train are 1 apart.
    assert found.edge_ratio.value == pytest.approx(1 / (0.125 * sqrt(2)))
    assert (found.infer_repeat.value, found.train_repeat.value) == (0.0625, 0.03125)
    assert found.infer_ratio.n == found.precision.n == 4


def test_equal_tokens_give_intervals_of_no_width() -> None:
    found = floor_of(made())
    assert found is not None
    assert found.infer_ratio.ci95 == (4.0, 4.0)


def test_a_ratio_is_of_means_and_not_a_mean_of_ratios() -> None:
    captures = made()
    captures["floor"] = capture([-1.0, -1.25], [-1.0], [-1.25])  # 0, 0.25, 0, 0.25: mean 0.125
    found = floor_of(captures)
    assert found is not None
    # Up to the 1e-7 that stands in for a floor of 0.
    assert found.infer_ratio.value == pytest.approx(4.0, rel=1e-5)


def test_a_floor_of_zero_is_recorded_as_zero_and_divides_by_the_smallest() -> None:
    found = floor_of(made(floor=LEVEL["ref"]))
    assert found is not None
    assert found.precision.value == 0.0
    assert found.infer_ratio.value == pytest.approx(0.5 / SMALLEST)


def test_sides_that_are_the_reference_are_at_no_floor_at_all() -> None:
    found = floor_of(made(**dict.fromkeys(("prefill", "train", "decode"), LEVEL["ref"])))
    assert found is not None
    ratios = (found.infer_ratio, found.train_ratio, found.edge_ratio)
    assert [r.value for r in ratios] == [0.0, 0.0, 0.0]


def test_the_method_names_both_precisions() -> None:
    for dtype, other in (("bfloat16", "float32"), ("float32", "float64")):
        found = floor_of(made(), dtype)
        assert found is not None
        assert f"in {dtype} against the reference in {other}" in found.method


def test_non_finite_tokens_are_in_neither_numerator_nor_denominator() -> None:
    captures = made()
    captures["floor"] = capture([float("nan"), -1.125], [-1.125], [-1.125])
    found = floor_of(captures)
    assert found is not None
    assert (found.infer_ratio.value, found.infer_ratio.n, found.infer_ratio.n_dropped) == (4, 3, 1)


@pytest.mark.parametrize("missing", ["ref", "floor", "decode", "train"])
def test_without_a_reference_there_is_no_floor(missing: str) -> None:
    captures = made()
    del captures[missing]
    assert floor_of(captures) is None


@pytest.mark.parametrize("missing", ["prefill_repeat", "train_micro_batch"])
def test_a_side_that_was_not_repeated_has_no_repeat(missing: str) -> None:
    captures = made()
    del captures[missing]
    found = floor_of(captures)
    assert found is not None
    repeat = found.infer_repeat if missing == "prefill_repeat" else found.train_repeat
    assert (repeat.n, repr(repeat.value)) == (0, "nan")


def test_without_a_re_scoring_the_engine_is_what_it_returned_while_sampling() -> None:
    captures = made()
    del captures["prefill"]
    found = floor_of(captures)
    assert found is not None
    assert found.infer_ratio.value == 6.0  # |-1.75 + 1| / 0.125


def test_each_error_on_the_typical_token_too() -> None:
    found = floor_of(made())
    assert found is not None
    assert found.typical is not None
    # As the means, since all tokens are alike, but for 3e-6 in 0.125.
    for name, ratio in (("infer", 4.0), ("train", 2.0), ("decode", 6.0), ("edge", 8 / sqrt(2))):
        assert getattr(found.typical, name).value == pytest.approx(ratio, rel=1e-4)
    assert found.decode_ratio is not None
    assert found.decode_ratio.value == 6.0  # |-1.75 + 1| / 0.125


def test_a_second_engine_has_an_error_of_its_own_and_two_edges() -> None:
    alone = floor_of(made())
    assert alone is not None
    assert not [name for name in alone.ratios() if "second" in name]
    found = floor_of(made(second=-1.25))
    assert found is not None
    ratios = found.ratios()
    # |-1.25 + 1| / 0.125; then |-1.25 + 1.75| and |-0.75 + 1.25| over 0.125 sqrt 2.
    for name, ratio in (
        ("second", 2),
        ("decode_second", 4 / sqrt(2)),
        ("second_train", 4 / sqrt(2)),
    ):
        assert ratios[f"{name}_ratio"].value == pytest.approx(ratio)
        assert ratios[f"typical.{name}"].value == pytest.approx(ratio, rel=1e-4)


def test_a_side_leaves_the_floor_by_either_measure() -> None:
    found = floor_of(made(train=-1.375, prefill=-1.125, decode=-1.125))
    assert found is not None
    # The trainer is 0.375 / 0.125 = 3 floors away, the engine 1.
    limits = Limits()
    assert leaves_floor(found, "train", limits)
    assert leaves_typically(found, "train", limits)
    assert not leaves_floor(found, "infer", limits)
    by_mean = found.model_copy(update={"typical": None})
    assert leaves_floor(by_mean, "train", limits)
    assert not leaves_typically(by_mean, "train", limits)
    assert not leaves_floor(by_mean, "train", Limits(floor_ratio=4))
    assert leaves_floor(found, "train", Limits(floor_ratio=4))
