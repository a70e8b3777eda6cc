"""Several runs together: intervals worked out by hand, and which one decides."""

from __future__ import annotations

import math
from math import nan

import pytest

from mismatch_lab.findings.over_runs import (
    Repeat,
    in_words,
    mean_over_runs,
    over_runs,
    widened_edges,
    widened_floor,
    without_reference,
)
from mismatch_lab.schema import (
    EstimateRecord,
    Measures,
    NoiseFloor,
    RepeatRecord,
    Status,
    TypicalRatios,
)

EDGE = "decode_train"


def number(value: float, low: float, high: float, n: int = 1000) -> EstimateRecord:
    return EstimateRecord(value=value, n=n, n_dropped=0, ci95=(low, high))


def run(
    at: int, size: float, ratio: float = 1.0, mean: float = 0.0, status: Status = "match"
) -> RepeatRecord:
    return RepeatRecord(
        run=at,
        seed=at,
        status=status,
        headline=f"headline {at}",
        edges={EDGE: {"abs_delta_mean": size, "mean_delta": mean}, "train_ref": {"mean_delta": 1}},
        floor_ratios={"infer_ratio": 1.0, "train_ratio": 1.0, "edge_ratio": ratio},
    )


def failed(at: int) -> RepeatRecord:
    return RepeatRecord(run=at, seed=at, status="error", headline="out of memory")


def edges(spread: float) -> dict[str, Measures]:
    return {
        EDGE: {
            "abs_delta_mean": number(1.0, 1 - spread, 1 + spread),
            "mean_delta": number(0.0, -spread, spread),
            "abs_delta_p99": number(5.0, 4.0, 6.0),
        }
    }


def floor() -> NoiseFloor:
    one = number(1.0, 0.9, 1.1)
    return NoiseFloor(
        method="", precision=one, infer_repeat=one, train_repeat=one,
        infer_ratio=one, train_ratio=one, edge_ratio=one,
    )  # fmt: skip


def test_the_interval_over_three_runs() -> None:
    # 1, 2, 3: mean 2, half width 4.302653 / sqrt(3) = 2.484138; a size is not below 0.
    size = mean_over_runs([1.0, 2.0, 3.0])
    assert size.value == 2.0
    assert size.ci95 == pytest.approx((0.0, 4.484138), abs=1e-6)
    signed = mean_over_runs([1.0, 2.0, 3.0], signed=True)
    assert signed.ci95 == pytest.approx((-0.484138, 4.484138), abs=1e-6)


def test_the_wider_interval_decides() -> None:
    runs = [run(1, 1.0), run(2, 2.0), run(3, 3.0)]
    over = over_runs(runs, edges(0.1), floor())
    assert over.wider == [EDGE]  # of the ratios, all runs say 1: no width
    widened = widened_edges(edges(0.1), over)[EDGE]
    assert widened["abs_delta_mean"].value == 2.0
    assert widened["abs_delta_mean"].ci95 == pytest.approx((0.0, 4.484138), abs=1e-6)
    assert widened["abs_delta_mean"].n == 1000  # tokens, not runs
    assert widened["abs_delta_p99"] == edges(0.1)[EDGE]["abs_delta_p99"]
    assert widened_floor(floor(), over) == floor()


def test_a_narrower_interval_leaves_the_rows_to_decide() -> None:
    runs = [run(1, 1.0), run(2, 1.001), run(3, 0.999)]
    over = over_runs(runs, edges(0.1), floor())
    assert over.wider == []
    assert widened_edges(edges(0.1), over) == edges(0.1)


def test_rows_that_give_no_interval_leave_it_to_the_runs() -> None:
    over = over_runs([run(1, 1.0), run(2, 1.001)], edges(nan), floor())
    assert EDGE in over.wider


def test_a_ratio_over_runs_decides_too() -> None:
    # 1, 1, 4: mean 2, deviation sqrt(3); 4.302653 * sqrt(3) / sqrt(3) to either side.
    over = over_runs([run(1, 1.0, 1.0), run(2, 1.0, 1.0), run(3, 1.0, 4.0)], edges(0.1), floor())
    assert over.wider == ["edge_ratio"]
    found = widened_floor(floor(), over)
    assert found is not None
    assert found.edge_ratio.ci95 == pytest.approx((0.0, 6.302653), abs=1e-6)
    assert found.infer_ratio == floor().infer_ratio


def test_a_run_that_failed_has_no_part_in_means_and_is_told() -> None:
    over = over_runs([run(1, 1.0), run(2, 3.0), failed(3)], edges(0.1), floor())
    size = over.edges[EDGE]["abs_delta_mean"]
    assert (size.value, size.n, size.n_dropped) == (2.0, 2, 1)
    assert [one.run for one in over.failed] == [3]
    assert "Run 3 failed: out of memory" in in_words(over, EDGE)


def test_one_run_alone_widens_nothing() -> None:
    over = over_runs([run(1, 1.0), failed(2)], edges(0.1), floor())
    assert over.wider == []
    assert math.isnan(over.edges[EDGE]["abs_delta_mean"].ci95[0])


def test_a_later_run_that_is_a_mismatch_by_itself_is_told() -> None:
    over = over_runs([run(1, 1.0), run(2, 1.0, status="mismatch")], edges(0.1), floor())
    assert "Run 2 by itself: headline 2" in in_words(over, EDGE)
    assert "(1 match, 1 mismatch)" in in_words(over, EDGE)[0]


def test_against_another_reference_nothing_is_kept() -> None:
    kept = without_reference(Repeat(run(2, 1.0))).record
    assert set(kept.edges) == {EDGE}
    assert set(kept.floor_ratios) == {"edge_ratio"}


def test_ratios_on_the_typical_token_are_widened_too() -> None:
    one = number(1.0, 0.9, 1.1)
    typical = TypicalRatios(infer=one, train=one, decode=one, edge=one)
    measured = floor().model_copy(update={"typical": typical, "decode_ratio": one})
    assert set(measured.ratios()) == {
        "infer_ratio", "train_ratio", "edge_ratio", "decode_ratio",
        "typical.infer", "typical.train", "typical.edge", "typical.decode",
    }  # fmt: skip
    runs = [
        run(at, 1.0).model_copy(update={"floor_ratios": {"typical.infer": float(at)}})
        for at in (1, 2, 3)
    ]
    over = over_runs(runs, edges(0.1), measured)
    assert "typical.infer" in over.wider  # 2 +- 2.48 over runs, 0.9 to 1.1 over rows
    wider = widened_floor(measured, over)
    assert wider is not None
    assert wider.typical is not None
    assert wider.typical.infer.ci95 == pytest.approx((0.0, 4.484138), abs=1e-6)
    assert (wider.typical.train, wider.infer_ratio) == (one, one)


def test_against_another_reference_only_the_edge_counts() -> None:
    names = ("typical.edge", "typical.infer", "edge_ratio", "infer_ratio")
    whole = run(2, 1.0).model_copy(update={"floor_ratios": dict.fromkeys(names, 1.0)})
    alone = without_reference(Repeat(whole))
    assert set(alone.record.floor_ratios) == {"edge_ratio", "typical.edge"}
