"""Log-probs of healthy models, recorded for the study of the noise floor (`floor_power`).

A diagnosis at depth quick, without its verdict: both sides, the reference and the floor. The full
vocabulary is recorded at every sampled token, so that scaled logits can be planted afterwards as
they would have come out: a side's log-probs, scaled, and their softmax taken again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.capture import Capture
from mismatch_lab.engines.jobs import WorkerTask
from mismatch_lab.engines.plan import plan_tasks
from mismatch_lab.executors.local import run_task
from mismatch_lab.findings.build import load_captures
from mismatch_lab.run.request import DiagnoseRequest, build_run
from mismatch_lab.schema import RunSpec
from mismatch_lab.scorecard.models import TRANSFORMERS_ARGS, checkpoint
from mismatch_lab.scorecard.run_case import TRAINER

Float64 = NDArray[np.float64]

SIDES = ("decode", "prefill", "train", "ref", "floor")
PLANTED = ("prefill", "train")
"""Sides whose logits are scaled."""
SCALES = (1.005, 1.01, 1.02, 1.05, 1.1)
EVERY_TOKEN = 1 << 14
"""More probe positions than a run has sampled tokens."""
PROMPTS, MAX_TOKENS = 16, 32
"""Half the rows and half the tokens of a diagnosis: there are many models."""


@dataclass(frozen=True)
class Recording:
    """One healthy run: log-probs of its N sampled tokens, in nats."""

    engine: str
    model: str
    dtype: str
    row_ids: NDArray[np.int64]
    """[N], ascending"""
    logp: Mapping[str, Float64]
    """capture -> [N]"""
    scaled: Mapping[str, Float64]
    """side -> [S, N], one row for each of SCALES"""


def path_of(folder: Path, engine: str, model: str, dtype: str) -> Path:
    """Where a recording is kept."""
    return folder / f"{engine}-{model}-{dtype}.npz"


def load(path: Path) -> Recording:
    """A recording from disk."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    engine, model, dtype = (str(part) for part in arrays["names"])
    logp = {side: arrays[side] for side in SIDES}
    scaled = {side: arrays[f"scaled.{side}"] for side in PLANTED}
    return Recording(engine, model, dtype, arrays["row_ids"], logp, scaled)


def record(folder: Path, engine: str, model: str, dtype: str, checkpoints: Path) -> Path:
    """Run both sides of a healthy model and keep their log-probs.

    Raises:
        MismatchLabError: a side could not be run.
    """
    run = _run(engine, model, dtype, checkpoint(model, checkpoints))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        captures_dir = Path(scratch) / "captures"
        for name, task in plan_tasks(run, str(captures_dir.resolve())):
            run_task(_needed(task), name, Path(scratch) / "logs", lambda _event: None)
        arrays = _arrays(load_captures(Path(scratch)))
        unfinished = Path(scratch) / "recording.npz"
        np.savez_compressed(unfinished, names=np.array([engine, model, dtype]), **arrays)
        path = path_of(folder, engine, model, dtype)
        shutil.move(unfinished, path)
    return path


def _run(engine: str, name: str, dtype: str, model: str) -> RunSpec:
    stock = tuple(f"{key}={value}" for key, value in TRANSFORMERS_ARGS.get(name, {}).items())
    run = build_run(
        DiagnoseRequest(
            model=model,
            engine=engine,
            trainer=TRAINER,
            dtype=dtype,
            max_tokens=MAX_TOKENS,
            engine_args=stock if engine == "hf" else (),
            trainer_args=stock,
            depth="quick",
        )
    )
    every = run.probe.capture.model_copy(update={"probe_positions": EVERY_TOKEN, "routing": False})
    probe = run.probe.model_copy(update={"capture": every})
    return run.model_copy(update={"probe": probe, "prompts": run.prompts[:PROMPTS]})


def _needed(task: WorkerTask) -> WorkerTask:
    """Without the passes that repeat a side."""
    stages = [
        stage.model_copy(update={"jobs": [job for job in stage.jobs if job.id in SIDES]})
        for stage in task.stages
    ]
    return task.model_copy(update={"stages": stages})


def _arrays(captures: Mapping[str, Capture]) -> dict[str, Any]:
    rows = captures["decode"].rows
    arrays: dict[str, Any] = {"row_ids": rows.row_ids()[rows.sampled]}
    for side in SIDES:
        arrays[side] = captures[side].logp[rows.sampled].astype(np.float64)
    for side in PLANTED:
        arrays[f"scaled.{side}"] = np.stack([scaled_logp(captures[side], s) for s in SCALES])
    return arrays


def scaled_logp(capture: Capture, scale: float) -> Float64:
    """[N] log-probs of the sampled tokens, had the side's logits been this many times as large.

    The side's own rounding stays in: its log-probs are what is scaled.
    """
    assert capture.probe_logp is not None
    sampled = np.flatnonzero(capture.rows.sampled)
    at = np.searchsorted(capture.probe_positions, sampled)
    assert np.array_equal(capture.probe_positions[at], sampled)
    found = np.empty(len(sampled))
    for index, (row, token) in enumerate(zip(at, capture.rows.token_ids[sampled], strict=True)):
        logits = scale * capture.probe_logp[row].astype(np.float64)
        finite = logits[np.isfinite(logits)]
        top = finite.max()
        found[index] = logits[token] - top - np.log(np.exp(finite - top).sum())
    return found
