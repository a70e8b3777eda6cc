"""The edges of a run as the diagram and its table show them: what each says against the floor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mismatch_lab.findings.edges import EDGE_ABOUT
from mismatch_lab.report.numbers import estimate_value, number
from mismatch_lab.schema import EstimateRecord, Findings, Limits, Probe

State = Literal["same", "within", "beyond", "differs", "unmeasured"]

MEAN_ABS_DELTA = "abs_delta_mean"


DRAWN = (
    "decode_train",
    "decode_prefill",
    "prefill_train",
    "infer_ref",
    "train_ref",
    "infer_infer",
    "train_train",
)
"""The edges of the diagram; they are told also where they were not measured."""

STATES: dict[State, tuple[str, str]] = {
    "beyond": ("✕", "beyond what precision explains"),
    "within": ("≈", "within what precision explains"),
    "same": ("=", "the same"),
    "differs": ("≠", "differs; no floor to judge it by"),
    "unmeasured": ("–", "not measured"),
}
"""A sign and words for each state, so that colour is never alone."""


@dataclass(frozen=True)
class Edge:
    """One edge with its mean |delta| and how that compares with the floor."""

    name: str
    about: str
    estimate: EstimateRecord | None
    state: State
    value: str
    over_floor: str
    """Such as `12×`; empty without a floor."""
    typically: str = ""
    """The same on the typical token; empty where that was not measured."""

    @property
    def sign(self) -> str:
        """The state's sign."""
        return STATES[self.state][0]

    @property
    def state_words(self) -> str:
        """The state in words."""
        return STATES[self.state][1]


def edge_views(findings: Findings, probe: Probe | None) -> list[Edge]:
    """Every known edge, measured or not, then any others that were measured."""
    limits = probe.limits if probe else Limits()
    names = [*DRAWN, *(name for name in findings.edges if name not in DRAWN)]
    return [_edge(name, findings, limits) for name in names]


def _edge(name: str, findings: Findings, limits: Limits) -> Edge:
    estimate = findings.edges.get(name, {}).get(MEAN_ABS_DELTA)
    about = EDGE_ABOUT.get(name, name.replace("_", " and "))
    floor = findings.noise_floor.precision.value if findings.noise_floor else math.nan
    ratio = math.nan
    if estimate is not None and floor > 0:
        # Two sides with independent errors of the floor's size are sqrt(2) floors apart.
        ratio = estimate.value / (floor if name.endswith("_ref") else floor * math.sqrt(2))
    over_floor = "" if math.isnan(ratio) else f"{number(ratio, 2)}×"
    typical = _typical(name, findings)
    typically = f"{number(typical.value, 2)}×" if typical is not None and typical.n else ""
    state = _state(estimate, ratio, limits)
    if state == "within" and typical is not None and typical.ci95[0] > limits.floor_typical_ratio:
        state = "beyond"
    return Edge(name, about, estimate, state, estimate_value(estimate), over_floor, typically)


def _typical(name: str, findings: Findings) -> EstimateRecord | None:
    """Over the floor of the same token, for the edges of which that was measured."""
    floor = findings.noise_floor
    if floor is None or floor.typical is None:
        return None
    measured = {
        "infer_ref": floor.typical.infer,
        "train_ref": floor.typical.train,
        "decode_train": floor.typical.edge,
        "decode_second": floor.typical.decode_second,
        "second_train": floor.typical.second_train,
        "second_ref": floor.typical.second,
    }
    return measured.get(name)


def _state(estimate: EstimateRecord | None, ratio: float, limits: Limits) -> State:
    if estimate is None or math.isnan(estimate.value):
        return "unmeasured"
    if estimate.value < limits.match_abs_delta_nats:
        return "same"
    if math.isnan(ratio):
        return "differs"
    return "beyond" if ratio > limits.floor_ratio else "within"
