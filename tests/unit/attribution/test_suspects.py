"""Who is wrong, with limits of 2.5 times a floor of 0.01 nats."""

from __future__ import annotations

from typing import Any

import pytest
from builders import answered

from mismatch_lab.attribution.suspects import Suspect, find_suspects, noise_of, suspect_of
from mismatch_lab.schema import EstimateRecord, Limits, Localisation, NoiseFloor, TypicalRatios

LIMITS = Limits()
CAPTURES = {
    "ref": answered([-1.0, -2.0]),
    "train": answered([-1.25, -2.25]),
    "prefill": answered([-1.0, -2.5]),
    "decode": answered([-1.0, -3.5]),
}


def number(value: float) -> EstimateRecord:
    return EstimateRecord(value=value, n=100, n_dropped=0, ci95=(value, value))


def floor(train: float = 1.0, infer: float = 1.0, precision: float = 0.01) -> NoiseFloor:
    zero = number(0.0)
    return NoiseFloor(
        method="", precision=number(precision), infer_repeat=zero, train_repeat=zero,
        infer_ratio=number(infer), train_ratio=number(train), edge_ratio=number(1.0),
    )  # fmt: skip


def suspects(
    noise: NoiseFloor, decode_prefill: float = 0.0, where: str | None = None
) -> list[Suspect]:
    edges: Any = {"decode_prefill": {"abs_delta_mean": number(decode_prefill)}}
    module = Localisation.model_validate(
        {
            "depth": "standard", "method": "", "per_module": [], "side": where,
            "first_divergent_module": "lm_head" if where else None,
        }
    )  # fmt: skip
    return find_suspects(CAPTURES, edges, noise, module, LIMITS)


def names(found: list[Suspect]) -> list[str]:
    return [suspect.name for suspect in found]


def test_each_is_charged_beyond_its_limit_the_sampling_last() -> None:
    assert names(suspects(floor(train=2.6))) == ["train"]
    assert names(suspects(floor(infer=2.6))) == ["infer"]
    assert names(suspects(floor(train=2.6, infer=2.6), 1.0)) == ["train", "infer", "decode"]


def test_sampling_is_charged_beyond_what_two_programs_differ_by() -> None:
    # Noise is 2.5 * 0.01 = 0.025 nats; two of them add up to 0.025 * sqrt(2) = 0.0354.
    assert "decode" not in names(suspects(floor(), 0.035))
    assert names(suspects(floor(), 0.036)) == ["decode"]


def test_a_side_with_a_divergent_module_is_charged_whatever_its_average() -> None:
    assert names(suspects(floor(), where="infer")) == ["infer"]


def test_where_nobody_stands_out_it_is_the_further_one() -> None:
    assert names(suspects(floor(train=1.2, infer=1.1))) == ["train"]
    assert names(suspects(floor(train=1.1, infer=1.2))) == ["infer"]


def test_without_sampling_against_re_scoring_nobody_is_charged_with_it() -> None:
    assert names(find_suspects(CAPTURES, {}, floor(train=3.0), None, LIMITS)) == ["train"]


@pytest.mark.parametrize(
    # Against the reference, the reference, and the engine's own re-scoring.
    ("name", "error"), [("train", 0.25), ("infer", 0.25), ("decode", 0.5)],
)  # fmt: skip
def test_what_each_is_held_against(name: Any, error: float) -> None:
    suspect = suspect_of(name, CAPTURES, 0.025)
    assert suspect.error_nats == pytest.approx(error)
    assert suspect.noise_nats == 0.025


def test_noise_has_a_smallest_size() -> None:
    assert noise_of(floor(), LIMITS) == pytest.approx(0.025)
    assert noise_of(floor(precision=1e-9), LIMITS) == 3e-6


def typically(train: float = 1.0, infer: float = 1.0, decode: float = 1.0) -> NoiseFloor:
    ratios = {"train": train, "infer": infer, "decode": decode, "edge": 1.0}
    typical = TypicalRatios(**{name: number(value) for name, value in ratios.items()})
    return floor(precision=0.2).model_copy(update={"decode_ratio": number(1.0), "typical": typical})


def test_who_is_wrong_on_the_typical_token_is_charged_with_less_noise() -> None:
    (one,) = suspects(typically(train=2.1))
    assert one.name == "train"
    # Errors of 0.25 with a floor of 0.2, well within 2.5 of them: the noise is sqrt(0.25 * 0.2).
    assert one.error_nats == 0.25
    assert one.noise_nats == pytest.approx(0.2236, abs=1e-4)


def test_sampling_is_charged_by_its_own_error_against_the_reference() -> None:
    # Beyond one floor of 0.2, far below 2.5 sqrt(2) = 3.5 of them.
    assert names(suspects(typically(decode=2.1), decode_prefill=0.3)) == ["decode"]
    # An error that the re-scoring has too is not the sampling's.
    assert names(suspects(typically(decode=2.1, infer=2.1), decode_prefill=0.3)) == ["infer"]
    # Nor is one that re-scoring does not contradict.
    assert "decode" not in names(suspects(typically(decode=2.1), decode_prefill=0.1))
