"""A baseline: what an earlier run measured, in a small file that is committed and read in diffs."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from mismatch_lab import __version__
from mismatch_lab.captures.align import Aligned
from mismatch_lab.errors import InputError
from mismatch_lab.gate.record import Record, Subject, delta_of
from mismatch_lab.gate.rules import BASELINE_MEASURES
from mismatch_lab.measures.against_baseline import (
    POSITION_STARTS,
    BaselineRatio,
    PositionSums,
    baseline_ratio,
    sum_by_position,
)
from mismatch_lab.probes.suites import first_problem
from mismatch_lab.schema import EstimateRecord, Measures, Status, Strict, write_whole

KEPT_EDGES = ("decode_train", "decode_prefill", "prefill_train")
"""What a baseline holds sequences of: what RL sees, and the two halves of it."""

KEPT_MEASURES = (
    "abs_delta_mean",
    "abs_delta_p50",
    "abs_delta_p99",
    "abs_delta_max",
    "mult_prob_error",
    "kl_infer_train_k3",
    "ratio_outside_share",
)
"""Written for people who read the diff; `--accept` says how they changed."""

DIGITS = 6
"""Significant digits of what is written: more than any two runs share."""

SUBJECT_WORDS = {
    "probe": "probe",
    "prompts": "prompts (token ids: another prompt set, template or tokenizer)",
    "sampling": "sampling",
    "dtype": "dtype",
    "weights": "weights",
    "infer": "engine",
    "train": "trainer",
}


class EdgeSequences(Strict):
    """Sums of each sequence of an edge, by range of positions."""

    p99_nats: float
    """Of the baseline itself; the share of tokens beyond it is compared."""
    tokens: list[list[int]]
    """[R, ranges of positions]"""
    values: dict[str, list[list[float]]]
    """measure -> [R, ranges of positions]: sums over these tokens."""


class Baseline(Strict):
    """A baseline file."""

    schema_version: Literal[1] = 1
    mismatch_lab: str
    created: str
    status: Status
    subject: Subject
    model: str
    machine: str
    versions: dict[str, str]
    measures: dict[str, Measures]
    position_starts: tuple[int, ...] = POSITION_STARTS
    sequences: dict[str, EdgeSequences]
    sha256: str = ""
    """Of all the above: a file that was edited by hand is no measurement."""


def baseline_of(record: Record) -> Baseline:
    """What is kept of a run."""
    return Baseline(
        mismatch_lab=__version__,
        created=f"{datetime.now().astimezone():%Y-%m-%d}",
        status=record.findings.verdict.status,
        subject=record.subject,
        model=record.model,
        machine=record.machine,
        versions=record.versions,
        measures={
            edge: {name: _rounded(measures[name]) for name in KEPT_MEASURES if name in measures}
            for edge, measures in record.edges.items()
        },
        sequences={
            edge: _sequences(pairs, record)
            for edge in KEPT_EDGES
            if (pairs := record.pair(edge)) is not None
        },
    )


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Whole or not at all, with its digest, one row of numbers a line.

    Raises:
        InputError: the file cannot be written.
    """
    signed = baseline.model_copy(update={"sha256": _sha256(baseline)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, _text(signed))
    except OSError as error:
        raise InputError(f"Baseline {path} cannot be written: {error.strerror}.") from error


def read_baseline(path: Path) -> Baseline:
    """A baseline from its file.

    Raises:
        InputError: there is none, it cannot be read, is of another version, or was edited.
    """
    if not path.is_file():
        raise InputError(
            f"Baseline {path} does not exist.",
            "Write one from a run that you trust: mismatch-lab gate RUN --baseline FILE --accept.",
        )
    try:
        found = Baseline.model_validate_json(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValidationError) as error:
        detail = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise InputError(
            f"Baseline {path} is damaged, or of another version: {detail}.", "Accept a new one."
        ) from error
    if found.sha256 != _sha256(found):
        raise InputError(
            f"Baseline {path} was edited by hand, or merged: its numbers do not go together.",
            "Accept a new one from a run.",
        )
    return found


def incomparable(baseline: Baseline, record: Record) -> list[str]:
    """Why a baseline says nothing of a run; empty where it does."""
    found = []
    ours, theirs = __version__.split(".")[0], baseline.mismatch_lab.split(".")[0]
    if ours != theirs:
        found.append(f"it is of mismatch-lab {baseline.mismatch_lab}, this is {__version__}")
    if baseline.position_starts != POSITION_STARTS:
        found.append("its ranges of positions are others")
    for name, words in SUBJECT_WORDS.items():
        then, now = getattr(baseline.subject, name), getattr(record.subject, name)
        if then != now:
            digest = name in ("prompts", "weights")
            found.append(f"it has other {words}" + ("" if digest else f": {then}, not {now}"))
    if not record.subject.weights:
        found.append("no fingerprints of weights were recorded, so these may be others")
    return found


def compared(
    baseline: Baseline, record: Record, edge: str, measure: str, tail: float
) -> BaselineRatio | None:
    """How many times the baseline's a run's measure is; None where either has no such edge.

    Raises:
        KeyError: `measure` is none of BASELINE_MEASURES.
    """
    then, pairs = baseline.sequences.get(edge), record.pair(edge)
    if then is None or pairs is None:
        return None
    now = _position_sums(pairs, record.n_rows, then.p99_nats)[measure]
    if now.tokens.shape != (len(then.tokens), len(POSITION_STARTS)):
        return None
    old = PositionSums(np.array(then.tokens, np.float64), np.array(then.values[measure]))
    return baseline_ratio(now, old, tail)


def changes(old: Baseline, new: Baseline) -> list[tuple[str, str, str]]:
    """(what, before, after) of all that a person would want to know of a new baseline."""
    was, now = _facts(old), _facts(new)
    return [
        (name, was.get(name, ""), now.get(name, ""))
        for name in {**was, **now}
        if was.get(name) != now.get(name)
    ]


def _facts(baseline: Baseline) -> dict[str, str]:
    subject = {f"subject.{n}": str(v)[:16] for n, v in baseline.subject.model_dump().items()}
    measures = {
        f"{edge} {name}": f"{m.value:.3g} [{m.ci95[0]:.3g}, {m.ci95[1]:.3g}] n {m.n}"
        for edge, measures in baseline.measures.items()
        for name, m in measures.items()
        if name in BASELINE_MEASURES
    }
    about = {"status": baseline.status, "machine": baseline.machine, "model": baseline.model}
    return about | subject | baseline.versions | measures


def _sequences(pairs: Aligned, record: Record) -> EdgeSequences:
    delta = np.abs(delta_of(pairs))
    finite = delta[np.isfinite(delta)]
    p99 = float(f"{np.quantile(finite, 0.99):.{DIGITS}g}") if finite.size else 0.0
    sums = _position_sums(pairs, record.n_rows, p99)
    return EdgeSequences(
        p99_nats=p99,
        tokens=sums[BASELINE_MEASURES[0]].tokens.astype(int).tolist(),
        values={name: _digits(one.values) for name, one in sums.items()},
    )


def _position_sums(pairs: Aligned, n_rows: int, p99_nats: float) -> dict[str, PositionSums]:
    """By measure of `BASELINE_MEASURES`."""
    delta = delta_of(pairs)
    with np.errstate(over="ignore", invalid="ignore"):
        terms: dict[str, NDArray[np.float64]] = {
            "abs_delta_mean": np.abs(delta),
            "abs_delta_p99": np.where(np.isfinite(delta), np.abs(delta) > p99_nats, np.nan),
            "kl_infer_train_k3": np.expm1(delta) - delta,
        }
    return {
        name: sum_by_position(terms[name], pairs.row_ids, pairs.positions, n_rows)
        for name in BASELINE_MEASURES
    }


def _rounded(estimate: EstimateRecord) -> EstimateRecord:
    return EstimateRecord(
        value=float(f"{estimate.value:.{DIGITS}g}"),
        n=estimate.n,
        n_dropped=estimate.n_dropped,
        ci95=tuple(float(f"{end:.{DIGITS}g}") for end in estimate.ci95),  # type: ignore[arg-type]
    )


def _digits(values: NDArray[np.float64]) -> list[list[float]]:
    return [[float(f"{value:.{DIGITS}g}") for value in row] for row in values]


def _sha256(baseline: Baseline) -> str:
    content: Any = baseline.model_dump(mode="json", exclude={"sha256"})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _text(baseline: Baseline) -> str:
    written = json.dumps(baseline.model_dump(mode="json"), indent=1, ensure_ascii=False)
    # One row of numbers a line: what changed of a sequence is one line of a diff.
    return (
        re.sub(r"\[[\s\d.,e+-]+\]", lambda found: " ".join(found.group().split()), written) + "\n"
    )
