"""From a scoring job to a capture with its manifest."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.capture import Capture, Int64, Rows, first_rows
from mismatch_lab.captures.packing import rebuilt
from mismatch_lab.captures.probes import probe_positions, tap_rows, tapped_rows
from mismatch_lab.captures.store import load_capture
from mismatch_lab.engines.base import Engine, Progress, ScoreRequest
from mismatch_lab.engines.jobs import GenerateJob, Job, ScoreJob
from mismatch_lab.engines.provenance import package_versions
from mismatch_lab.errors import CaptureError
from mismatch_lab.schema import LogprobSpace, Manifest, SideSpec


def score_job(engine: Engine, job: ScoreJob, captures: Path, progress: Progress) -> Capture:
    """Score the rows of the job's source capture."""
    source, _ = load_capture(captures / job.source)
    plan = job.plan
    alone = tap_rows(source.rows, plan) if job.as_tapped else ()
    if job.first_rows is not None:
        source = first_rows(source, job.first_rows)
    replay = None
    if job.replay_from is not None:
        other, _ = load_capture(captures / job.replay_from)
        replay = {n: a for n, a in other.hidden.items() if n.endswith(":in") or n == "model.norm"}
    positions, tapped = _probes(job, captures, source.rows)
    request = ScoreRequest(
        temperature=job.temperature,
        probe_positions=positions,
        routing=job.routing,
        draws=job.draws,
        tap_rows=tapped,
        alone_rows=tuple(row for row in alone if row < source.rows.n_rows),
        micro_batch=job.micro_batch,
        train_mode=job.train_mode,
        replay=replay,
        routing_replay=_choices(job, captures, source.rows.n_tokens),
        packing=job.packing,
        packs=_packs(job, captures),
        alter=job.alter,
    )
    capture = engine.score(source.rows, request, progress)
    if job.packs_from is not None:
        capture = _only_packed(capture, request.packs)
    return replace(capture, weights=engine.fingerprint()) if job.fingerprint else capture


def _probes(job: ScoreJob, captures: Path, rows: Rows) -> tuple[Int64, tuple[int, ...]]:
    """(probe positions, tapped rows): those of the plan, or of another capture."""
    if job.probes_from is not None:
        other, _ = load_capture(captures / job.probes_from)
        return other.probe_positions, tapped_rows(other) if job.taps else ()
    positions = rows.row_offsets[:0]
    if job.probes:
        positions = probe_positions(rows, job.plan, job.taps)
    return positions, tap_rows(rows, job.plan) if job.taps else ()


def _packs(job: ScoreJob, captures: Path) -> tuple[tuple[int, ...], ...]:
    """Rows that lay together, as far as that was recorded.

    Raises:
        CaptureError: the capture does not say.
    """
    if job.packs_from is None:
        return ()
    side, _ = load_capture(captures / job.packs_from)
    if side.packs is None:
        raise CaptureError(f"Capture {job.packs_from} does not say how rows were packed.")
    return rebuilt(side.packs, np.diff(side.rows.row_offsets))


def _only_packed(capture: Capture, packs: tuple[tuple[int, ...], ...]) -> Capture:
    """The capture without what it says of rows that are of no pack."""
    known = np.isin(capture.rows.row_ids(), [row for pack in packs for row in pack])
    logp = np.where(known, capture.logp, np.float32(np.nan))
    probes = capture.probe_logp
    if probes is not None:
        probes = np.where(known[capture.probe_positions, None], probes, np.float32(np.nan))
    return replace(capture, logp=logp, probe_logp=probes)


def _choices(job: ScoreJob, captures: Path, tokens: int) -> NDArray[np.int16] | None:
    """Expert choices to follow.

    Raises:
        CaptureError: the capture recorded none.
    """
    if job.routing_from is None:
        return None
    recorded = load_capture(captures / job.routing_from)[0].router_topk
    if recorded is None:
        raise CaptureError(f"Capture {job.routing_from} recorded no routing to follow.")
    return recorded[:tokens]


def manifest_of(
    engine: Engine, spec: SideSpec, job: Job, capture: Capture, wall_s: float
) -> Manifest:
    """What is known of a capture when it is made."""
    space: LogprobSpace = "raw" if engine.logprob_space == "raw" else "processed"
    return Manifest(
        id=job.id,
        side=spec.side,
        engine=spec.engine,
        engine_version=engine.version,
        model=spec.model,
        dtype=spec.dtype,
        sampling=job.sampling if isinstance(job, GenerateJob) else None,
        logprob_space=space,
        patched=list(engine.patched),
        options=dict(engine.options),
        host=platform.node(),
        packages=package_versions(),
        rows=capture.rows.n_rows,
        tokens=capture.rows.n_tokens,
        wall_s=wall_s,
        arrays_sha256="",
    )
