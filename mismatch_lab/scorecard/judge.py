"""A case's truth against the findings. Pure: nothing is read, nothing is run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import permutations

from mismatch_lab.schema import Cause, Findings, Status
from mismatch_lab.scorecard.records import Case, Judgement, Truth

FLOOR = "numerics-floor"
"""The cause that names no bug."""
SAME_CONFIDENCE = 1e-9
UNLISTED = "unlisted"
"""Among a truth's causes: the defect has no name, so that not naming it is right."""
Parted = tuple[str, str | None]
"""Where the sides part, as the findings say it: (side in error, first module)."""
SURE = 0.5
"""A wrong name with more confidence than this sends its reader the wrong way."""


def judge(
    case: Case,
    status: Status,
    causes: Sequence[Cause],
    parts: Parted = ("undecided", None),
) -> Judgement:
    """Was the planted fault found, and named as what it is? `parts` counts without a sure name."""
    bugs = [cause for cause in causes if cause.id != FLOOR]
    if case.kind == "control":
        return Judgement(
            false_alarm=status == "mismatch" or bool(bugs),
            named=bugs[0].id if bugs else _nothing(status),
            confidence=bugs[0].confidence if bugs else float("nan"),
            extra=len(bugs),
        )
    detected = status == "mismatch" or bool(bugs)
    if case.kind == "double":
        return _judge_double(case.truths, bugs, detected)
    (truth,) = case.truths
    tied = first_ties(bugs) if bugs else []
    if UNLISTED in truth.causes and not any(cause.id in truth.causes for cause in tied):
        return _judge_unlisted(truth, status, bugs, parts)
    if not bugs:
        missing = None if truth.location is None else False
        return Judgement(
            detected=detected, family=False, side=False, cause=False, location=missing,
            named=_nothing(status),
        )  # fmt: skip
    answer = next((cause for cause in tied if cause.id in truth.causes), bugs[0])
    right = answer.id in truth.causes
    return Judgement(
        detected=detected,
        family=any(cause.family in truth.families for cause in tied),
        side=(answer.side if right else bugs[0].side) in truth.sides,
        cause=right,
        tied=len(tied) > 1,
        location=same_place(truth.location, answer.location),
        extra=len([c for c in bugs if c.id not in truth.causes and not (right and c in tied)]),
        named=answer.id,
        confidence=answer.confidence,
    )


def _judge_unlisted(
    truth: Truth, status: Status, bugs: Sequence[Cause], parts: Parted
) -> Judgement:
    """Right: seen, on its side, in its place, and not surely called something of another family.

    Side and place are those of the first name, if it is sure; otherwise where the sides part.
    """
    sure = [cause for cause in bugs if cause.confidence > SURE]
    astray = [cause for cause in sure if cause.family not in truth.families]
    side, place = (str(sure[0].side), sure[0].location) if sure else parts
    right_side, right_place = side in truth.sides, same_place(truth.location, place)
    detected = status == "mismatch" or bool(bugs)
    return Judgement(
        detected=detected,
        family=detected and not astray,
        side=right_side,
        cause=detected and not astray and right_side and right_place is not False,
        location=right_place,
        extra=len(sure),
        named=bugs[0].id if bugs else _nothing(status),
        confidence=bugs[0].confidence if bugs else float("nan"),
    )


def parted(findings: Findings) -> Parted:
    """The side and the module that were localised; without them, the side with more error."""
    found, floor = findings.localisation, findings.noise_floor
    if found is not None and found.side is not None:
        return found.side, found.first_divergent_module
    if floor is None:
        return "undecided", None
    worse = floor.train_ratio.value > floor.infer_ratio.value
    return "train" if worse else "infer", None


def first_ties(causes: Sequence[Cause]) -> list[Cause]:
    """The first cause and those right behind it with the same confidence."""
    first = causes[0].confidence
    return [cause for cause in causes if abs(cause.confidence - first) < SAME_CONFIDENCE]


def same_place(truth: str | None, named: str | None) -> bool | None:
    """The same module, one within the other, or the same decoder layer; None without a truth."""
    if truth is None:
        return None
    if named is None:
        return False
    if named == truth or named.startswith(truth + ".") or truth.startswith(named + "."):
        return True
    layer = _layer(truth)
    return layer is not None and layer == _layer(named)


def _judge_double(truths: tuple[Truth, ...], bugs: Sequence[Cause], detected: bool) -> Judgement:
    """One named cause cannot stand for two planted ones."""
    best: list[tuple[Truth, Cause]] = []
    for order in permutations(bugs, min(len(bugs), len(truths))):
        for chosen in permutations(truths, len(order)):
            pairs = zip(chosen, order, strict=True)
            found = [(truth, cause) for truth, cause in pairs if cause.id in truth.causes]
            best = max(best, found, key=len)
    both = len(best) == len(truths)
    return Judgement(
        detected=detected,
        cause=bool(best),
        both=both,
        side=all(cause.side in truth.sides for truth, cause in best) if best else False,
        extra=len(bugs) - len(best),
        tied=len(bugs) > 1 and len(first_ties(bugs)) > 1,
        named=" + ".join(sorted(cause.id for _, cause in best)) or (bugs[0].id if bugs else "none"),
        confidence=bugs[0].confidence if bugs else float("nan"),
    )


def _layer(module: str) -> str | None:
    found = re.search(r"\blayers\.(\d+)\b", module)
    return found[1] if found else None


def _nothing(status: Status) -> str:
    return {"numerics": FLOOR, "mismatch": "mismatch, unnamed"}.get(status, status)
