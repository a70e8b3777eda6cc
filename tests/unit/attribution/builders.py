"""Captures, hypotheses and worlds small enough to work everything out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mismatch_lab.attribution.changes import Float64
from mismatch_lab.attribution.fit import Fit
from mismatch_lab.attribution.hypotheses import Explanation, Features, FreeNumber, Hypothesis
from mismatch_lab.attribution.simulate import OutOfTimeError, Prediction, Predictor, Simulator
from mismatch_lab.attribution.suspects import Suspect
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.schema import Alteration, Packing, RunSpec, Sampling, SideSpec

NAN = float("nan")


def rows_of(*lengths: int, prompt: int = 1) -> Rows:
    """Rows of these lengths; all but the prompt is sampled, token ids are 0, 1, 2, … throughout."""
    ids = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
    return Rows.build(
        [part.tolist() for part in ids],
        [prompt] * len(lengths),
        [[False] * prompt + [True] * (length - prompt) for length in lengths],
    )


def answered(*answers: Sequence[float]) -> Capture:
    """Every row is one prompt token and then sampled ones with these log-probs."""
    rows = rows_of(*(1 + len(answer) for answer in answers))
    return Capture(rows, np.array([v for a in answers for v in (NAN, *a)], np.float32))


def features(
    suspect: Any = "decode", config: dict[str, Any] | None = None, **more: Any
) -> Features:
    """Circumstances of a suspect."""
    more.setdefault("sampling", Sampling())
    return Features(suspect, config or {}, **more)


def altered_by(name: str, cause: str = "logit-scale", **more: Any) -> Hypothesis:
    """A hypothesis of one alteration."""
    return Hypothesis(cause, f"altered by {name}", model=(Alteration(name=name),), **more)


def searched(cause: str, grid: tuple[float, ...], refine: Any = "no") -> Hypothesis:
    """A hypothesis with one free number."""
    number = Alteration(name=cause)
    return Hypothesis(cause, cause, (number,), search=FreeNumber(grid, refine), fitted=1)


def a_fit(explanation: Explanation, residual: float, **more: Any) -> Fit:
    """A fit on four tokens that were 1 nat off."""
    more.setdefault("slope", 1.0)
    more.setdefault("shared", 1.0)
    return Fit(explanation, 4, 1.0, residual, **more)


def a_suspect(
    observed: Any, expected: Any, noise_nats: float = 1e-6, suspect: Any = "train"
) -> Suspect:
    """Two programs' log-probs held against each other."""
    first, second = np.array(observed, np.float64), np.array(expected, np.float64)
    return Suspect(suspect, first, second, float(np.nanmean(np.abs(first - second))), noise_nats)


class FakeSimulator(Simulator):
    """Says what it was told to, by the names of the alterations; anything else does not apply."""

    def __init__(self, known: Mapping[tuple[str, ...], Capture]) -> None:
        self.known = known
        self.asked: list[tuple[tuple[str, ...], Packing | None, int | None]] = []

    def score(
        self,
        alterations: tuple[Alteration, ...],
        packing: Packing | None = None,
        first_rows: int | None = None,
    ) -> Capture | None:
        names = tuple(a.name for a in alterations)
        self.asked.append((names, packing, first_rows))
        return self.known.get((*names, packing) if packing else names)


class AdditivePredictor(Predictor):
    """Each cause adds its own change, times the hypothesis's number; the budget may end."""

    def __init__(
        self, expected: Float64, changes: Mapping[str, Float64], budget: int | None = None
    ) -> None:
        self.expected = expected
        self.changes = changes
        self.budget = budget
        self.asked: list[tuple[str, ...]] = []

    def small(self, first_rows: int) -> Predictor:
        return self

    def predict(self, explanation: Explanation) -> Prediction | None:
        if self.budget is not None and len(self.asked) >= self.budget:
            raise OutOfTimeError
        self.asked.append(tuple(h.cause for h in explanation))
        logp = self.expected.copy()
        for hypothesis in explanation:
            if hypothesis.cause not in self.changes:
                return None
            value = hypothesis.value
            factor = 1.0 if value is None else float(value)
            logp = logp + factor * self.changes[hypothesis.cause]
        flat = np.flatnonzero(np.isfinite(self.expected))
        return Prediction(flat, logp[flat])


def side(name: Any, **more: Any) -> SideSpec:
    """A side of the fake engine, unless told otherwise."""
    more.setdefault("engine", "fake")
    return SideSpec(side=name, model="no-such-model", dtype="float32", **more)


def run_of(train: SideSpec | None = None, infer: SideSpec | None = None) -> RunSpec:
    """A run of two sides, without prompts."""
    return RunSpec.model_validate(
        {
            "id": "run",
            "probe": {
                "name": "p", "title": "", "why": "", "limits_reason": "",
                "prompts": {"set": "s", "count": 1},
            },
            "depth": "quick",
            "infer": (infer or side("infer")).model_dump(),
            "train": (train or side("train")).model_dump(),
            "ref": side("ref").model_dump(),
            "prompts": [],
            "provenance": {
                "created": "", "command": [], "host": "", "cpu": "", "cpu_count": 1,
                "python": "", "packages": {},
            },
        }
    )  # fmt: skip
