import math

import pytest

from mismatch_lab.report.edges import edge_views
from mismatch_lab.schema import EstimateRecord, Findings, NoiseFloor, Verdict

VERDICT = Verdict(status="mismatch", headline="", reasons=[], next_command="")


def estimate(value: float, n: int = 100) -> EstimateRecord:
    return EstimateRecord(value=value, n=n, n_dropped=0, ci95=(value, value))


def findings(edges: dict[str, float], floor: float | None) -> Findings:
    noise = None
    if floor is not None:
        names = ("infer_repeat", "train_repeat", "infer_ratio", "train_ratio", "edge_ratio")
        rest = {name: estimate(1.0) for name in names}
        noise = NoiseFloor(method="", precision=estimate(floor), **rest)
    table = {name: {"abs_delta_mean": estimate(value)} for name, value in edges.items()}
    return Findings(
        run="r", edges=table, noise_floor=noise, routing=None, localisation=None, verdict=VERDICT
    )


# The floor is 0.02 and the limit 2.5 times it. Two sides may be sqrt(2) * 0.02 = 0.02828 apart, so
# 0.065 between them is 2.30 floors and 0.09 is 3.18; one side against the reference, 0.0624: 3.12.
@pytest.mark.parametrize(
    ("edge", "value", "floor", "state", "over"),
    [
        ("decode_train", 0.065, 0.02, "within", "2.3×"),
        ("decode_train", 0.09, 0.02, "beyond", "3.2×"),
        ("train_ref", 0.048, 0.02, "within", "2.4×"),
        ("train_ref", 0.0624, 0.02, "beyond", "3.1×"),
        ("decode_train", 0.00009, 0.02, "same", "0.0032×"),
        ("decode_train", 0.09, None, "differs", ""),
        ("decode_train", math.nan, 0.02, "unmeasured", ""),
    ],
)
def test_an_edge_is_judged_by_the_floor(
    edge: str, value: float, floor: float | None, state: str, over: str
) -> None:
    view = next(v for v in edge_views(findings({edge: value}, floor), None) if v.name == edge)
    assert (view.state, view.over_floor) == (state, over)


def test_edges_that_were_not_measured_are_shown_as_such() -> None:
    views = {view.name: view for view in edge_views(findings({"a_b": 0.5}, None), None)}
    assert views["decode_train"].value == "not measured"
    assert views["decode_train"].state == "unmeasured"
    assert views["a_b"].about == "a and b"  # `compare` may bring edges of its own
