"""Who stands alone, from intervals written down by hand: limits 2.5 floors, 2 typically."""

from __future__ import annotations

from typing import Any

import pytest

from mismatch_lab.findings.three_way import OVER_FLOOR, three_way
from mismatch_lab.schema import EstimateRecord, Limits, Measures, NoiseFloor, Program, ThreeWay

LIMITS = Limits(
    match_abs_delta_nats=1e-4, floor_ratio=2.5, floor_typical_ratio=2.0, min_tokens=256, min_rows=4
)
NAMES: dict[Program, str] = {"infer": "vllm", "second": "sglang", "train": "trainer fsdp"}
FLOOR_NATS = 0.02
NEAR, FAR, BETWEEN = (0.9, 1.1), (4.0, 6.0), (2.0, 3.0)
"""Intervals of a ratio to the floor: within 2.5, beyond it, and around it."""

Interval = tuple[float, float]


def number(low: float, high: float, n: int = 1000, dropped: int = 0) -> EstimateRecord:
    return EstimateRecord(value=(low + high) / 2, n=n, n_dropped=dropped, ci95=(low, high))


def edge(times: Interval, **more: Any) -> Measures:
    """An edge so many times the floor, and as often up as down."""
    low, high = (FLOOR_NATS * 2**0.5 * end for end in times)
    return {"abs_delta_mean": number(low, high, **more), "mean_delta": number(-low / 20, low / 20)}


def judged(
    decode_train: Interval,
    decode_second: Interval,
    second_train: Interval,
    typical: dict[str, Interval] | None = None,
    changed: dict[str, Measures] | None = None,
    n_rows: int = 32,
) -> ThreeWay:
    times = {
        "decode_train": decode_train, "decode_second": decode_second, "second_train": second_train,
    }  # fmt: skip
    one = number(1.0, 1.0).model_dump()
    means = {f"{OVER_FLOOR[name]}_ratio": number(*ends) for name, ends in times.items()}
    typically = {OVER_FLOOR[name]: number(*NEAR) for name in times}
    typically |= {OVER_FLOOR[name]: number(*ends) for name, ends in (typical or {}).items()}
    floor = NoiseFloor.model_validate(
        {
            "method": "", "precision": one, "infer_repeat": one, "train_repeat": one,
            "infer_ratio": one, "train_ratio": one,
            **{name: ratio.model_dump() for name, ratio in means.items()},
            "typical": {
                "infer": one, "train": one, "decode": one,
                **{name: ratio.model_dump() for name, ratio in typically.items()},
            },
        }
    )  # fmt: skip
    edges = {name: edge(ends) for name, ends in times.items()} | (changed or {})
    return three_way(edges, floor, NAMES, LIMITS, n_rows)


def test_three_that_are_within_the_floor_of_each_other_agree() -> None:
    found = judged(NEAR, NEAR, NEAR)
    assert found.stands_alone == "none"
    assert [pair.state for pair in found.pairs] == ["agree"] * 3
    assert found.why.startswith("Stands alone: nobody (vllm and trainer fsdp agree: mean |delta| ")


@pytest.mark.parametrize(
    ("times", "alone"),
    [((FAR, FAR, NEAR), "infer"), ((NEAR, FAR, FAR), "second"), ((FAR, NEAR, FAR), "train")],
)
def test_who_differs_from_both_others_stands_alone(
    times: tuple[Interval, Interval, Interval], alone: Program
) -> None:
    found = judged(*times)
    assert found.stands_alone == alone
    assert found.why.startswith(f"Stands alone: {NAMES[alone]} (")
    assert "differ: mean |delta| 0.141 [0.113, 0.17] nats, 5 times the floor" in found.why


@pytest.mark.parametrize(
    "times",
    [
        (FAR, FAR, FAR),  # no two agree
        (FAR, NEAR, NEAR),  # the second lies between the others
        (FAR, FAR, BETWEEN),  # whether the other two agree is not known
        (FAR, BETWEEN, NEAR),  # whether it differs from both is not
        (NEAR, NEAR, BETWEEN),
    ],
)
def test_anything_else_is_undecided(times: tuple[Interval, Interval, Interval]) -> None:
    assert judged(*times).stands_alone == "undecided"


def test_a_pair_around_the_limit_is_said_to_be_open() -> None:
    found = judged(NEAR, NEAR, BETWEEN)
    assert [pair.state for pair in found.pairs] == ["agree", "agree", "undecided"]
    assert "sglang and trainer fsdp may agree or differ: " in found.why


def test_below_the_match_limit_two_are_the_same_policy_whatever_the_floor() -> None:
    """In float32 the floor is 1e-7 nats: three such floors are nothing."""
    small = {"abs_delta_mean": number(1e-6, 9.9e-5), "mean_delta": number(0, 0)}
    assert judged(NEAR, FAR, FAR, changed={"second_train": small}).pairs[2].state == "agree"


def test_the_typical_token_tells_two_apart_where_the_mean_does_not() -> None:
    found = judged(NEAR, NEAR, NEAR, {"decode_second": (2.1, 2.4), "second_train": (2.1, 2.4)})
    assert found.stands_alone == "second"
    assert judged(NEAR, NEAR, NEAR, {"decode_second": (1.9, 2.4)}).stands_alone == "undecided"


def test_a_difference_that_goes_one_way_is_no_rounding() -> None:
    """0.02 of 0.028 nats: more than half, and four standard errors are 4 * 0.001 / 1.96 away."""
    size = edge(NEAR)["abs_delta_mean"]
    one_way = {"abs_delta_mean": size, "mean_delta": number(0.019, 0.021)}
    changed = {"decode_train": one_way, "decode_second": one_way}
    assert judged(NEAR, NEAR, NEAR, changed=changed).stands_alone == "infer"


def test_tokens_without_a_log_prob_are_a_difference() -> None:
    dropped = edge(NEAR, dropped=3)
    changed = {"decode_second": dropped, "second_train": dropped}
    found = judged(NEAR, NEAR, NEAR, changed=changed)
    assert found.stands_alone == "second"
    assert "3 tokens without a log-prob" in found.why


def test_few_tokens_or_rows_can_show_that_two_differ_and_not_that_they_agree() -> None:
    few = {name: edge(NEAR, n=255) for name in OVER_FLOOR}
    assert judged(NEAR, NEAR, NEAR, changed=few).stands_alone == "undecided"
    assert judged(NEAR, NEAR, NEAR, n_rows=3).stands_alone == "undecided"
    found = judged(NEAR, FAR, FAR, n_rows=3)
    assert [pair.state for pair in found.pairs] == ["undecided", "differ", "differ"]
