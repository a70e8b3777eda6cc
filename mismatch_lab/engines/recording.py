"""From a scoring job to a capture with its manifest."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.capture import Capture, first_rows
from mismatch_lab.captures.probes import probe_positions, tap_rows
from mismatch_lab.captures.store import load_capture
from mismatch_lab.engines.base import Engine, Progress, ScoreRequest
from mismatch_lab.engines.jobs import GenerateJob, Job, ScoreJob
from mismatch_lab.errors import CaptureError
from mismatch_lab.provenance import package_versions
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
    request = ScoreRequest(
        temperature=job.temperature,
        probe_positions=probe_positions(source.rows, plan, job.taps)
        if job.probes
        else source.rows.row_offsets[:0],
        routing=job.routing,
        draws=job.draws,
        tap_rows=tap_rows(source.rows, plan) if job.taps else (),
        alone_rows=tuple(row for row in alone if row < source.rows.n_rows),
        micro_batch=job.micro_batch,
        train_mode=job.train_mode,
        replay=replay,
        routing_replay=_choices(job, captures, source.rows.n_tokens),
        packing=job.packing,
        alter=job.alter,
    )
    capture = engine.score(source.rows, request, progress)
    return replace(capture, weights=engine.fingerprint()) if job.fingerprint else capture


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
