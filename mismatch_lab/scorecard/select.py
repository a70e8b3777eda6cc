"""Which of the card's cases are run: a subset by name, a severity, a part of N."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from mismatch_lab.checkpoints.config import EMBEDDED
from mismatch_lab.errors import InputError, nearest
from mismatch_lab.faults.base import Fault
from mismatch_lab.scorecard.cases import (
    Model,
    Planned,
    controls,
    model_names,
    read_model,
    singles,
)
from mismatch_lab.scorecard.doubles import doubles
from mismatch_lab.scorecard.models import (
    HELD_OUT_ARCHITECTURES,
    RANDOM_MODELS,
    SECOND_ARCHITECTURES,
)
from mismatch_lab.scorecard.records import SEVERITIES


@dataclass(frozen=True)
class Unseen:
    """A set of faults that nothing was developed on, and where they are planted."""

    architectures: Collection[str]
    """Next to the embedded one, which is there to compare with."""
    thinned: bool = False
    """Each severity of a fault is planted on one architecture only, as in `broad`."""


FIRST, SECOND = "held-out", "held-out-second"
UNSEEN = {
    FIRST: Unseen(HELD_OUT_ARCHITECTURES),
    SECOND: Unseen(SECOND_ARCHITECTURES, thinned=True),
}
"""By subset."""
RANDOM = "architectures"
"""The subset of healthy models of random weights, many architectures."""
SUBSETS = ("ci", "quick", "broad", "full", *UNSEEN, RANDOM)
ENGINES = ("vllm", "sglang", "hf")
ON_SGLANG = ("llama", "qwen3_moe")
"""Types of models that SGLang runs on a CPU, among those of the card."""
CI_CASES = (
    "sinks-dropped+two-pass-training.plain.mini-gpt-oss.fp32",
    "stale-tensor.plain.mini-gpt-oss.fp32",
    "logit-scale.medium.mini-gpt-oss.fp32",
    "dropout-active.plain.mini-gpt-oss.fp32",
    "healthy.float32.mini-gpt-oss.fp32",
    "healthy.bfloat16.mini-gpt-oss.bf16",
)
"""A pair, five families, the trainer and the sync, two controls. All but two share one engine's
captures, so that it takes some three minutes on two cores."""
QUICK_DOUBLES = 4


@dataclass(frozen=True)
class Selection:
    """What was asked for."""

    subset: tuple[str, ...] = ("full",)
    """Of SUBSETS, or names of faults, controls and cases."""
    models: tuple[str, ...] = ()
    severities: tuple[str, ...] = ()
    dtype: str | None = None
    """Of the faults that show in it."""


def select(
    asked: Selection,
    faults: Sequence[Fault],
    engine: str,
    checkpoints: Path,
    held_out: Mapping[str, Sequence[Fault]] = {},
) -> list[Planned]:
    """The cases asked for, in a fixed order, of all parts; held-out ones only by their names.

    `held_out` maps a subset of UNSEEN to its faults.

    Raises:
        InputError: an unknown engine, subset, fault, architecture or severity, or none is left.
    """
    _known("engine", engine, ENGINES)
    for severity in asked.severities:
        _known("severity", severity, SEVERITIES)
    random = [Model(name, {}) for name in RANDOM_MODELS if name in (asked.models or RANDOM_MODELS)]
    trained = [name for name in asked.models if name not in RANDOM_MODELS]
    names = trained if asked.models else model_names()
    models = [read_model(name, checkpoints) for name in names]
    if engine == "sglang" and not asked.models:
        models = [model for model in models if model.config.get("model_type") in ON_SGLANG]
    every = [
        *singles(faults, models, engine, asked.dtype),
        *doubles(faults, models, engine, asked.dtype),
        *controls(models, engine),
    ]
    apart = {RANDOM: controls(random, engine)} | {
        subset: _apart(asked, subset, unseen, engine, checkpoints)
        for subset, unseen in held_out.items()
    }
    chosen = _named(asked.subset, every, apart, [*faults, *chain(*held_out.values())])
    if asked.severities:
        kept = set(asked.severities)
        chosen = [p for p in chosen if not p.case.truths or p.case.truths[0].severity in kept]
    if not chosen:
        raise InputError("No case is left.", "See them all with --list.")
    return chosen


def _apart(
    asked: Selection, subset: str, faults: Sequence[Fault], engine: str, checkpoints: Path
) -> list[Planned]:
    """Every case of faults and architectures that nothing was developed on."""
    trained = [name for name in asked.models if name not in RANDOM_MODELS]
    names = trained if asked.models else (*UNSEEN[subset].architectures, EMBEDDED)
    models = [read_model(name, checkpoints) for name in names]
    return [*singles(faults, models, engine, asked.dtype), *controls(models, engine)]


def part_of(planned: list[Planned], part: str) -> list[Planned]:
    """Every N-th case from the I-th on, of `I/N`.

    Raises:
        InputError: no such part.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", part)
    number, parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= parts:
        raise InputError(f"--part {part} is not a part I/N with I from 1 to N.", "As in 2/4.")
    return planned[number - 1 :: parts]


def _named(
    subset: tuple[str, ...],
    every: list[Planned],
    apart: Mapping[str, list[Planned]],
    faults: Sequence[Fault],
) -> list[Planned]:
    ids: dict[str, None] = {}
    unseen = [planned for cases in apart.values() for planned in cases]
    for name in subset:
        found = [p.case.id for p in every if _matches(name, p)]
        if name == "quick":
            found = _quick(every)
        elif name == "broad":
            found = _broad(every)
        elif name in apart:
            chosen = [p for p in apart[name] if not _is_embedded_control(p)]
            thinned = name in UNSEEN and UNSEEN[name].thinned
            found = _broad(chosen) if thinned else [p.case.id for p in chosen]
        elif not found and name not in SUBSETS:
            found = [p.case.id for p in unseen if _matches(name, p)]
        if not found and name not in SUBSETS and name not in {fault.id for fault in faults}:
            raise InputError(
                f"The scorecard has no subset, fault, control or case {name!r}.",
                f"{nearest(name, _askable(every, faults))}Subsets: {', '.join(SUBSETS)}; faults: "
                "`mismatch-lab list faults`; cases: `mismatch-lab scorecard --list`.",
            )
        ids |= dict.fromkeys(found)
    cases = {p.case.id: p for p in [*every, *unseen]}
    return [planned for identity, planned in cases.items() if identity in ids]


def _askable(every: Iterable[Planned], faults: Iterable[Fault]) -> set[str]:
    """Names that a subset may have."""
    return {*SUBSETS, *(fault.id for fault in faults), *(planned.case.id for planned in every)}


def _is_embedded_control(planned: Planned) -> bool:
    """Those of the embedded model are in the other subsets."""
    return planned.case.kind == "control" and planned.case.model == EMBEDDED


def _matches(name: str, planned: Planned) -> bool:
    """A fault's name stands for its single cases."""
    case = planned.case
    if name == "full":
        return True
    if name == "ci":
        return case.id in CI_CASES
    single = case.kind == "single" and case.truths[0].fault == name
    return name in (case.id, case.kind, case.control) or single


def _quick(every: list[Planned]) -> list[str]:
    """Every fault once at plain severity, each control once, architectures in turn; a few pairs."""
    places: dict[str, list[str]] = {}
    for planned in every:
        case = planned.case
        if case.kind == "single" and case.truths[0].severity == SEVERITIES[0]:
            places.setdefault(case.truths[0].fault, []).append(case.id)
        elif case.control is not None:
            places.setdefault(f"healthy {case.control}", []).append(case.id)
    once = [ids[turn % len(ids)] for turn, ids in enumerate(places.values())]
    pairs = [p.case.id for p in every if p.case.kind == "double"]
    return [*once, *pairs[:QUICK_DOUBLES]]


def _broad(every: list[Planned]) -> list[str]:
    """Every fault at every severity once, each on another architecture; all pairs and controls."""
    chosen = [p.case.id for p in every if p.case.kind != "single"]
    places: dict[tuple[str, str], list[str]] = {}
    for planned in every:
        if planned.case.kind == "single":
            (truth,) = planned.case.truths
            places.setdefault((truth.fault, truth.severity), []).append(planned.case.id)
    faults = list(dict.fromkeys(fault for fault, _ in places))
    for (fault, severity), ids in places.items():
        turn = faults.index(fault) + SEVERITIES.index(severity)
        chosen.append(ids[turn % len(ids)])
    return chosen


def _known(what: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise InputError(
            f"The scorecard has no {what} {name!r}.", f"Available: {', '.join(names)}."
        )
