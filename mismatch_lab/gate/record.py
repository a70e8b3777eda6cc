"""What the gate judges: a finished run or two captures, after it was seen to be a measurement."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from mismatch_lab.captures.align import Aligned, align, identical
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.captures.store import load_capture
from mismatch_lab.errors import CaptureError, InputError
from mismatch_lab.findings.edges import EDGES, measure_pair
from mismatch_lab.findings.over_runs import widened_edges, widened_floor
from mismatch_lab.probes.suites import first_problem
from mismatch_lab.run.compare import compare_findings
from mismatch_lab.run.diagnose import FINDINGS_FILE, RUN_FILE
from mismatch_lab.schema import (
    Findings,
    Limits,
    Manifest,
    Measures,
    NoiseFloor,
    Provenance,
    RunSpec,
    Strict,
)

File = TypeVar("File", RunSpec, Findings)

INFER, TRAIN = EDGES["decode_train"]
CAPTURES_PROBE = "captures"
"""What the probe of two captures is called in rules."""

SAME_NUMBER = 1e-6
"""Findings and captures of one run give the same mean to this relative difference: sums in another
order, on another machine."""


class Subject(Strict):
    """What was measured; of another subject a baseline says nothing."""

    probe: str
    prompts: str
    """sha256 of the prompts' token ids."""
    sampling: str
    dtype: str
    weights: str
    """sha256 of the trainer's fingerprints; empty where none were recorded."""
    infer: str
    """Engine."""
    train: str


@dataclass(frozen=True)
class Record:
    """A measurement, with all that rules speak of.

    Attributes:
        name: the run's id, or both captures.
        model: what was sampled from.
        folder: of the run; None of two captures.
        findings: of the run.
        edges: its edges, with intervals over runs where these are wider.
        floor: likewise.
        captures: by id.
        subject: what was measured.
        versions: package -> version, of both sides.
        machine: what it ran on.
        problems: why this is no measurement.
        identical: both sides have the same log-probs, to the last bit.
    """

    name: str
    model: str
    folder: Path | None
    findings: Findings
    edges: dict[str, Measures]
    floor: NoiseFloor | None
    captures: dict[str, Capture]
    subject: Subject
    versions: dict[str, str]
    machine: str
    problems: tuple[str, ...]
    identical: bool

    @property
    def n_rows(self) -> int:
        """Sequences."""
        return self.captures[INFER].rows.n_rows

    @property
    def n_tokens(self) -> int:
        """Sampled ones."""
        return int(self.captures[INFER].rows.sampled.sum())

    def pair(self, edge: str) -> Aligned | None:
        """Sampled tokens of an edge that was measured, where both captures have the same rows."""
        names = EDGES[edge]
        if edge not in self.edges or not {*names} <= self.captures.keys():
            return None
        a, b = (self.captures[name] for name in names)
        return align(a, b, names) if a.rows.n_rows == b.rows.n_rows else None


def read_record(run: Path) -> Record:
    """A finished run.

    Raises:
        InputError: no run, one that did not finish, or findings that cannot be read.
        CaptureError: a damaged capture.
        AlignmentError: sides that hold other tokens.
    """
    spec = _parsed(run / RUN_FILE, RunSpec.model_validate_json)
    findings = _parsed(run / FINDINGS_FILE, Findings.model_validate_json)
    found = {path.name: load_capture(path) for path in _capture_folders(run)}
    missing = [name for name in (INFER, TRAIN) if name not in found]
    if missing:
        raise InputError(
            f"{run} has no capture {missing[0]!r}: what its findings rest on cannot be checked.",
            "Gate the whole run folder, captures included.",
        )
    captures = {name: capture for name, (capture, _) in found.items()}
    manifests = {name: manifest for name, (_, manifest) in found.items()}
    over = findings.over_runs
    problems = [*_of_run(spec, findings, captures), *_of_tokens(captures[INFER].rows)]
    return Record(
        name=spec.id,
        model=spec.infer.model,
        folder=run,
        findings=findings,
        edges=findings.edges if over is None else widened_edges(findings.edges, over),
        floor=findings.noise_floor if over is None else widened_floor(findings.noise_floor, over),
        captures=captures,
        subject=_subject(spec.probe.name, captures, manifests[INFER], manifests[TRAIN]),
        versions=_versions(manifests[INFER], manifests[TRAIN]),
        machine=_machine(spec.provenance),
        problems=tuple(problems),
        identical=identical(align(captures[INFER], captures[TRAIN], (INFER, TRAIN))),
    )


def record_of_captures(infer: Path, train: Path) -> Record:
    """Two captures of the same tokens: one edge, no reference, no noise floor.

    Raises:
        CaptureError: not a capture, or a damaged one.
        AlignmentError: they hold other tokens.
    """
    (a, first), (b, second) = load_capture(infer), load_capture(train)
    align(a, b, (str(infer), str(train)))
    captures = {INFER: a, TRAIN: b}
    findings = compare_findings(a, b, (str(infer), str(train)), Limits())
    problems = [*_of_tokens(a.rows)]
    if first.logprob_space != second.logprob_space and not _is_plain(first):
        problems.append(
            f"Log-probs are {first.logprob_space} in {infer} and {second.logprob_space} in {train}."
        )
    return Record(
        name=findings.run,
        model=first.model,
        folder=None,
        findings=findings,
        edges=findings.edges,
        floor=None,
        captures=captures,
        subject=_subject(CAPTURES_PROBE, captures, first, second),
        versions=_versions(first, second),
        machine=first.host,
        problems=tuple(problems),
        identical=identical(align(a, b, (INFER, TRAIN))),
    )


def _parsed(path: Path, parse: Callable[[str], File]) -> File:
    if not path.is_file():
        raise InputError(
            f"{path.parent} is not a finished run: it has no {path.name}.",
            "Name a folder that `mismatch-lab diagnose` wrote, or diagnose again.",
        )
    try:
        return parse(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise CaptureError(f"{path} is not text: {error}.", "Diagnose again.") from error
    except ValidationError as error:
        raise CaptureError(
            f"{path} is damaged, or of another version: {first_problem(error)}.",
            "Diagnose again.",
        ) from error


def _capture_folders(run: Path) -> list[Path]:
    names = {name for roles in EDGES.values() for name in roles}
    return [path for path in sorted((run / "captures").glob("*")) if path.name in names]


def _of_run(spec: RunSpec, findings: Findings, captures: dict[str, Capture]) -> Iterator[str]:
    """Signs that findings, captures and run are not of one whole run."""
    if findings.run != spec.id:
        yield f"The findings are of run {findings.run}, the folder is of {spec.id}."
    rows = captures[INFER].rows.n_rows
    if rows != len(spec.prompts):
        yield f"{rows} of {len(spec.prompts)} prompts have an answer: the run stopped early."
    if findings.over_runs is not None and findings.over_runs.failed:
        failed = findings.over_runs.failed[0]
        yield f"Run {failed.run} of {spec.repeats} failed: {failed.headline}"
    for edge, (a, b) in EDGES.items():
        if edge in findings.edges and {a, b} <= captures.keys():
            one, other = captures[a], captures[b]
            if one.rows.n_rows == other.rows.n_rows and _differs(findings.edges[edge], one, other):
                yield f"findings.json is not of these captures: {edge} has other numbers in them."


def _differs(written: Measures, infer: Capture, train: Capture) -> bool:
    held, now = written["abs_delta_mean"], measure_pair(infer, train, ("a", "b"))["abs_delta_mean"]
    if math.isnan(held.value) or math.isnan(now.value):
        return math.isnan(held.value) != math.isnan(now.value)
    return held.n != now.n or not math.isclose(held.value, now.value, rel_tol=SAME_NUMBER)


def _of_tokens(rows: Rows) -> Iterator[str]:
    """Signs that rows are no independent sequences."""
    if not rows.sampled.any():
        yield "No token was sampled."
    seen: dict[bytes, int] = {}
    for row, (start, stop) in enumerate(rows.spans()):
        first = seen.setdefault(rows.token_ids[start:stop].tobytes(), row)
        if first != row:
            yield (
                f"Rows {first} and {row} are the same tokens: a row that is counted twice makes "
                "intervals narrower than they are."
            )
            return


def _is_plain(sampled: Manifest) -> bool:
    """Whether tokens were drawn as the model says: raw log-probs are then the processed ones."""
    how = sampled.sampling
    return how is not None and (how.temperature, how.top_p) == (1.0, 1.0)


def _subject(probe: str, captures: dict[str, Capture], infer: Manifest, train: Manifest) -> Subject:
    rows = captures[INFER].rows
    prompts = [
        rows.token_ids[start : start + int(length)].tolist()
        for (start, _), length in zip(rows.spans(), rows.prompt_lengths, strict=True)
    ]
    sampling = infer.sampling
    how = (
        ""
        if sampling is None
        else f"temperature {sampling.temperature:g}, top_p {sampling.top_p:g}"
    )
    return Subject(
        probe=probe,
        prompts=_digest(prompts),
        sampling=how,
        dtype=f"{infer.dtype}, {train.dtype}",
        weights=_weights(captures[TRAIN], train.dtype),
        infer=infer.engine,
        train=train.engine,
    )


def _weights(train: Capture, dtype: str) -> str:
    held = {name: one.values for name, one in sorted(train.weights.items())}
    if not held:
        return ""
    kind = dtype if all(dtype in values for values in held.values()) else "float32"
    return _digest({name: values[kind] for name, values in held.items()})


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _versions(infer: Manifest, train: Manifest) -> dict[str, str]:
    """Packages of both sides; where they differ, each side's."""
    found = dict(train.packages)
    for name, version in infer.packages.items():
        if found.setdefault(name, version) != version:
            del found[name]
            found |= {f"{name} (infer)": version, f"{name} (train)": train.packages[name]}
    return dict(sorted(found.items()))


def _machine(provenance: Provenance) -> str:
    chips = ", ".join(provenance.accelerators) or "no accelerator"
    return f"{provenance.cpu}, {provenance.cpu_count} cores, {chips}"


def delta_of(pairs: Aligned) -> NDArray[np.float64]:
    """[N] in nats, of an edge's sampled tokens."""
    return pairs.logp_b.astype(np.float64) - pairs.logp_a
