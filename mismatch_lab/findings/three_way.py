"""Two engines and the trainer over the same tokens: does one of the three stand alone?

Two programs agree where their whole interval lies within what precision does, and differ where it
lies beyond: by the limits of a verdict (`verdict.py`). Who differs from both others,
while these agree, stands alone: whatever code, weights or settings are wrong, they are its own. The
reference decides none of this, so a defect that the trainer shares with it shows here, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from mismatch_lab.findings.floor_ratios import figure, number
from mismatch_lab.findings.verdict import is_one_sided
from mismatch_lab.schema import (
    Limits,
    Measures,
    NoiseFloor,
    PairOfPrograms,
    Program,
    ThreeWay,
)

State = Literal["agree", "differ", "undecided"]

PAIRS: dict[str, tuple[Program, Program]] = {
    "decode_train": ("infer", "train"),
    "decode_second": ("infer", "second"),
    "second_train": ("second", "train"),
}
"""Edge -> the programs it compares. The first engine is taken as it sampled: that is what RL sees,
and a defect of its re-scoring alone is none of the policy's."""

OVER_FLOOR = {
    "decode_train": "edge",
    "decode_second": "decode_second",
    "second_train": "second_train",
}
"""Edge -> its name among the ratios of the floor."""

WORDS: dict[State, str] = {
    "agree": "agree",
    "differ": "differ",
    "undecided": "may agree or differ",
}


def three_way(
    edges: Mapping[str, Measures],
    floor: NoiseFloor,
    names: Mapping[Program, str],
    limits: Limits,
    n_rows: int,
) -> ThreeWay:
    """Who stands alone, that nobody does, or that these tokens do not show it.

    Args:
        edges: with the three of `PAIRS`.
        floor: with the ratios of a second engine.
        names: what each program is called in the sentence.
        limits: of the run's probe.
        n_rows: sequences that were sampled.
    """
    pairs = [
        PairOfPrograms(
            edge=edge,
            programs=programs,
            state=_state(edges[edge], _over_floor(floor, edge, limits), limits, n_rows),
            why=_in_numbers(edges[edge], floor, edge),
        )
        for edge, programs in PAIRS.items()
    ]
    alone = _stands_alone(pairs)
    called = {"none": "nobody", "undecided": "undecided"} | {str(p): n for p, n in names.items()}
    said = "; ".join(_said(pair, names) for pair in pairs)
    return ThreeWay(stands_alone=alone, why=f"Stands alone: {called[alone]} ({said}).", pairs=pairs)


Over = tuple[tuple[float, float], float]
"""95 % interval of a ratio to the floor, and the limit that it is held against."""


def _over_floor(floor: NoiseFloor, edge: str, limits: Limits) -> list[Over]:
    """Mean over mean, and on the typical token."""
    known, name = floor.ratios(), OVER_FLOOR[edge]
    held = {f"{name}_ratio": limits.floor_ratio, f"typical.{name}": limits.floor_typical_ratio}
    return [(known[key].ci95, limit) for key, limit in held.items() if key in known]


def _state(measures: Measures, over: Sequence[Over], limits: Limits, n_rows: int) -> State:
    """Of one pair; tokens that one of the two has no log-prob for are a difference."""
    size = measures["abs_delta_mean"]
    if size.n_dropped:
        return "differ"
    enough = size.n >= limits.min_tokens and n_rows >= limits.min_rows
    if size.ci95[1] < limits.match_abs_delta_nats:
        return "agree" if enough else "undecided"
    if any(low > limit for (low, _), limit in over) or is_one_sided(measures["mean_delta"], size):
        return "differ"
    within = all(high <= limit for (_, high), limit in over)
    return "agree" if within and enough else "undecided"


def _stands_alone(pairs: Sequence[PairOfPrograms]) -> Program | Literal["none", "undecided"]:
    if all(pair.state == "agree" for pair in pairs):
        return "none"
    for together in pairs:
        apart = [pair for pair in pairs if pair is not together]
        if together.state == "agree" and all(pair.state == "differ" for pair in apart):
            return _other(together)
    return "undecided"


def _other(pair: PairOfPrograms) -> Program:
    """The program that is not of the pair."""
    programs: tuple[Program, ...] = ("infer", "second", "train")
    return next(program for program in programs if program not in pair.programs)


def _in_numbers(measures: Measures, floor: NoiseFloor, edge: str) -> str:
    size = measures["abs_delta_mean"]
    said = f"mean |delta| {number(size)} nats"
    ratio = floor.ratios()[f"{OVER_FLOOR[edge]}_ratio"]
    if ratio.n:
        said += f", {figure(ratio.value)} times the floor"
    return said + (f", {size.n_dropped} tokens without a log-prob" if size.n_dropped else "")


def _said(pair: PairOfPrograms, names: Mapping[Program, str]) -> str:
    first, second = pair.programs
    return f"{names[first]} and {names[second]} {WORDS[pair.state]}: {pair.why}"
