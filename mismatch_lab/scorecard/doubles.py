"""Two faults at once: a fixed list, drawn once with a seed from the pairs that can be planted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from mismatch_lab.errors import InputError
from mismatch_lab.faults.base import Fault, Severity
from mismatch_lab.scorecard.cases import Model, Planned, double, engine_of
from mismatch_lab.scorecard.plant import planted
from mismatch_lab.scorecard.setup import merged

SEED = 3
COUNT = 24
OFTEN = 3
"""A fault is in at most so many pairs."""
SEVERITY: Severity = "plain"
SEED_CASE = ("sinks-dropped", "two-pass-training")
"""The case the project began with; it is always in."""


def doubles(
    faults: Sequence[Fault], models: Sequence[Model], engine: str, dtype: str | None
) -> list[Planned]:
    """COUNT pairs: half on one side, half on two; families differ; architectures in turn."""
    drawn = random.Random(SEED)
    by_id = sorted(faults, key=lambda fault: fault.id)
    pairs = list(combinations(by_id, 2))
    drawn.shuffle(pairs)
    pairs.sort(key=lambda pair: {pair[0].id, pair[1].id} != set(SEED_CASE))  # stable: first
    used: Counter[str] = Counter()
    sides: Counter[bool] = Counter()
    chosen: list[Planned] = []
    for first, second in pairs:
        same_side = first.side == second.side
        if sides[same_side] == COUNT // 2 or max(used[first.id], used[second.id]) >= OFTEN:
            continue
        turn = len(chosen) % max(1, len(models))
        ordered = [*models[turn:], *models[:turn]]
        place = next(filter(None, (_place(first, second, m, engine) for m in ordered)), None)
        if place is None:
            continue
        used.update((first.id, second.id))
        sides[same_side] += 1
        chosen.append(double((first, second), SEVERITY, *place, dtype))
    return chosen


def _place(first: Fault, second: Fault, model: Model, asked: str) -> tuple[Model, str] | None:
    """Model and engine where both can be planted and neither hides or is the other, if there is."""
    engine = engine_of((first, second), model, asked)
    if engine is None or not set(first.dtypes) & set(second.dtypes):
        return None
    if first.family == second.family or set(first.causes) & set(second.causes):
        return None
    if first.kind == second.kind == "update":
        return None
    if first.kind == second.kind == "capture" and first.target == second.target:
        return None
    try:
        merged(planted(first, SEVERITY, model.name), planted(second, SEVERITY, model.name))
    except InputError:
        return None
    return model, engine
