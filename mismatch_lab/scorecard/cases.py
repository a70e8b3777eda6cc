"""Which cases a card has: every fault at every severity where it applies, pairs, and controls."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mismatch_lab.checkpoints.config import EMBEDDED, resolve_model_path
from mismatch_lab.errors import InputError, MissingDependencyError
from mismatch_lab.faults.base import ANY_ENGINE, SEVERITIES, Config, Fault, Severity
from mismatch_lab.scorecard.controls import ALL, CONTROLS, Control
from mismatch_lab.scorecard.models import (
    ARCHITECTURES,
    EVERY_ARCHITECTURE,
    RANDOM_MODELS,
    UNSEEN_ARCHITECTURES,
)
from mismatch_lab.scorecard.plant import healthy, planted
from mismatch_lab.scorecard.records import Case, Truth
from mismatch_lab.scorecard.setup import Setup

DTYPE_ORDER = ("float32", "bfloat16")
"""Which of a fault's dtypes is taken unless another is asked for. In float32 the floor is low
enough that slight faults stand above it; the controls are in bfloat16 as well."""
FALLBACK = "hf"
SHORT = {"bfloat16": "bf16", "float32": "fp32"}


@dataclass(frozen=True)
class Planned:
    """A case and how it is set up; the setup is made only where the case is run."""

    case: Case
    setup: Callable[[str], Setup]
    """The checkpoint's path -> setup."""


@dataclass(frozen=True)
class Model:
    """An architecture of the card."""

    name: str
    config: Config
    """As in its config.json."""


def model_names() -> list[str]:
    """The card's architectures."""
    return [EMBEDDED, *ARCHITECTURES]


def read_model(name: str, checkpoints: Path) -> Model:
    """An architecture with its configuration; of one that is not trained yet, as it will be.

    Raises:
        InputError: no such architecture.
    """
    known = [*model_names(), *UNSEEN_ARCHITECTURES]
    if name not in known:
        raise InputError(
            f"The scorecard has no architecture {name!r}.", f"Available: {', '.join(known)}."
        )
    folder = Path(resolve_model_path(name)) if name == EMBEDDED else checkpoints / name
    path = folder / "config.json"
    if path.is_file():
        return Model(name, json.loads(path.read_text(encoding="utf-8")))
    try:
        config: Any = EVERY_ARCHITECTURE[name]()
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"The scorecard needs {error.name}.", "pip install 'mismatch-lab[cpu]'"
        ) from error
    return Model(name, config.to_dict())


def singles(
    faults: Sequence[Fault], models: Sequence[Model], engine: str, dtype: str | None
) -> list[Planned]:
    """Every fault at every severity on every architecture that has the part."""
    return [
        _planned("single", ((fault, severity),), model, place, dtype_of((fault,), dtype))
        for model in models
        for fault in faults
        if (place := engine_of((fault,), model, engine)) is not None
        for severity in SEVERITIES
    ]


def double(
    pair: tuple[Fault, Fault], severity: Severity, model: Model, engine: str, dtype: str | None
) -> Planned:
    """Two faults at once."""
    plants = tuple((fault, severity) for fault in pair)
    return _planned("double", plants, model, engine, dtype_of(pair, dtype))


def controls(models: Sequence[Model], engine: str) -> list[Planned]:
    """Every healthy control on its architectures."""
    found = []
    for name, control in CONTROLS.items():
        for model in models:
            if not _is_for(control, model) or (control.vllm_only and engine != "vllm"):
                continue
            identity = f"healthy.{name}.{_place(model, engine, control.dtype)}"
            case = Case(
                id=identity, kind="control", model=model.name, dtype=control.dtype, engine=engine,
                control=name,
            )  # fmt: skip
            found.append(Planned(case, lambda _model, control=control: healthy(control)))  # type: ignore[misc]
    return found


def _is_for(control: Control, model: Model) -> bool:
    unseen = model.name in UNSEEN_ARCHITECTURES or model.name in RANDOM_MODELS
    everywhere = control.models == ALL and unseen
    return model.name in control.models or everywhere


def engine_of(faults: Sequence[Fault], model: Model, asked: str) -> str | None:
    """The engine that all of them can be planted in: the one asked for, or transformers where
    vLLM was asked for and it is not possible there; None where the model lacks the part.
    """
    kind = str(model.config.get("model_type"))
    if not all(fault.applies(kind, model.config) for fault in faults):
        return None
    for engine in (asked, FALLBACK) if asked == "vllm" else (asked,):
        if all(_can_be_planted(fault, engine) for fault in faults):
            return engine
    return None


def _can_be_planted(fault: Fault, engine: str) -> bool:
    """What is written into a trainer or a record is no matter of the engine."""
    recorded = fault.kind == "capture" and fault.engines == ANY_ENGINE
    return fault.side == "train" or recorded or engine in fault.engines


def dtype_of(faults: Sequence[Fault], asked: str | None) -> str:
    """The dtype that faults are planted in: the one asked for, where all of them show in it."""
    shown = [d for d in DTYPE_ORDER if all(d in fault.dtypes for fault in faults)]
    return asked if asked in shown else shown[0]


def truth_of(fault: Fault, severity: str, model: Model) -> Truth:
    """What the judge knows."""
    return Truth(
        fault=fault.id,
        severity=severity,
        causes=fault.causes,
        families=(fault.family,),
        # What was not delivered is missing in the engine: both are said of it in the field.
        sides=("sync", "infer") if fault.side == "sync" else (fault.side,),
        location=fault.expected_location(model.config),
    )


def _place(model: Model, engine: str, dtype: str) -> str:
    """The end of a case's id; vLLM goes without saying."""
    return f"{model.name}.{SHORT[dtype]}" + ("" if engine == "vllm" else f".{engine}")


def _planned(
    kind: str,
    plants: tuple[tuple[Fault, Severity], ...],
    model: Model,
    engine: str,
    dtype: str,
) -> Planned:
    faults = "+".join(fault.id for fault, _ in plants)
    identity = f"{faults}.{plants[0][1]}.{_place(model, engine, dtype)}"
    case = Case(
        id=identity,
        kind=kind,  # type: ignore[arg-type]
        model=model.name,
        dtype=dtype,
        engine=engine,
        truths=tuple(truth_of(fault, severity, model) for fault, severity in plants),
    )
    return Planned(case, partial(_setup, plants))


def _setup(plants: tuple[tuple[Fault, Severity], ...], model: str) -> Setup:
    from mismatch_lab.scorecard.setup import merged

    setup = Setup()
    for fault, severity in plants:
        setup = merged(setup, planted(fault, severity, model))
    return setup
