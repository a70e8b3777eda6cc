"""May the reference be believed? A second implementation says, on the run's own tokens.

The reference is transformers, and so is the trainer: that they agree proves nothing about the code
that they share. Where the engine is the one that differs from the reference, the model is scored
once more by its definition (`mismatch_lab.definitions`). Either that sides with transformers, and
the engine is wrong; or with the engine, and transformers is: then the definition becomes the run's
reference, and everything is measured against it. Where it sides with nobody, or where the
architecture has no definition, it stays open which side is wrong.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mismatch_lab.attribution.thresholds import THRESHOLDS
from mismatch_lab.captures.align import assert_same_tokens
from mismatch_lab.captures.capture import Capture, first_rows
from mismatch_lab.captures.store import load_capture
from mismatch_lab.engines.base import AS_THEY_ARE, RECORDED
from mismatch_lab.engines.jobs import ScoreJob, Stage, WorkerTask
from mismatch_lab.engines.plan import reference_stages
from mismatch_lab.errors import MismatchLabError
from mismatch_lab.findings.localise import in_order
from mismatch_lab.findings.module_error import module_error, module_pair
from mismatch_lab.findings.noise_floor import leaves_floor
from mismatch_lab.schema import Findings, ReferenceCheck, RunSpec, SideSpec

DEFINITION = "definition"
"""The engine, and the capture that it makes."""

CHECKED_ROWS = 8
"""Rows that the definition scores: two implementations of one model agree everywhere or nowhere."""

NEARER = 0.2
"""The definition sides with whom it is this many times nearer to than to the other. Of three
programs in float32 two agree to 1e-6 nats and the third is off by what is wrong with it."""

SHARED = ("hf", "fsdp", RECORDED, *AS_THEY_ARE)
"""Trainers that run transformers' code, which the reference is; or may run it."""

OTHER_FUNCTION = 1e-4
"""Relative error of a module that is no rounding: float32 leaves 1e-6 to 1e-5."""

TRANSFORMERS, ON_TRANSFORMERS = "ref_transformers", "definition_on_transformers"
"""Captures of transformers' own modules, and of the definition's fed with their inputs."""

OPEN = "Engine and transformers disagree, and who is right is open."

RunTask = Callable[[WorkerTask, str], object]
"""Runs a worker task under a name."""


def is_due(run: RunSpec, findings: Findings) -> bool:
    """Whether the engine differs from a reference that is the trainer's own code."""
    floor = findings.noise_floor
    if floor is None or findings.verdict.status != "mismatch":
        return False
    if run.ref.engine != "hf" or run.train.engine not in SHARED:
        return False
    found = findings.localisation
    located = found is not None and found.side in ("infer", "undecided")
    return located or leaves_floor(floor, "infer", run.probe.limits)


def definition_of(run: RunSpec) -> SideSpec:
    """The run's reference as its definition."""
    args = {k: v for k, v in run.ref.args.items() if not k.endswith("_implementation")}
    return run.ref.model_copy(update={"engine": DEFINITION, "args": args})


def check(
    run: RunSpec,
    captures: Mapping[str, Capture],
    folder: Path,
    noise_nats: float,
    run_task: RunTask,
) -> ReferenceCheck:
    """Score some rows by the definition, and say with whom it sides.

    Args:
        run: with transformers as its reference.
        captures: of the run.
        folder: where they lie.
        noise_nats: what the precision of the engine may come to.
        run_task: runs a worker.
    """
    job = ScoreJob(
        id=DEFINITION,
        source="decode",
        temperature=run.probe.sampling.temperature,
        first_rows=CHECKED_ROWS,
    )
    try:
        run_task(_task(folder, Stage(spec=definition_of(run), jobs=[job])), DEFINITION)
    except MismatchLabError as error:
        return ReferenceCheck(outcome="not defined", why=f"{OPEN} {error.problem}")
    definition, _ = load_capture(folder / DEFINITION)
    return compared(definition, captures["ref"], captures["prefill"], noise_nats)


def compared(
    definition: Capture, ref: Capture, infer: Capture, noise_nats: float
) -> ReferenceCheck:
    """With whom the definition sides.

    Args:
        definition: its scores of the first rows.
        ref: transformers'.
        infer: the engine's.
        noise_nats: what the precision of the engine may come to.

    Raises:
        AlignmentError: they do not hold the same tokens.
    """
    rows = definition.rows.n_rows
    ref, infer = (first_rows(capture, rows) for capture in (ref, infer))
    for other, name in ((ref, "ref"), (infer, "prefill")):
        assert_same_tokens(definition, other, (DEFINITION, name))
    to_ref, to_infer = _apart(definition, ref), _apart(definition, infer)
    outcome: Literal["agrees", "contradicts", "undecided"] = "undecided"
    sides = f"{OPEN} The model's definition sides with neither"
    if to_ref <= max(NEARER * to_infer, THRESHOLDS.smallest_nats):
        outcome, sides = "agrees", "The model's definition sides with transformers"
    elif to_infer <= NEARER * to_ref or to_infer <= noise_nats < to_ref:
        outcome, sides = "contradicts", "The model's definition sides with the engine"
    distances = f"{to_ref:.2g} nats from transformers and {to_infer:.2g} from the engine"
    return ReferenceCheck(
        outcome=outcome,
        why=f"{sides}: over {rows} rows it is {distances}.",
        rows=rows,
        definition_ref_nats=to_ref,
        definition_infer_nats=to_infer,
    )


def by_definition(
    run: RunSpec, found: ReferenceCheck, folder: Path, run_task: RunTask
) -> tuple[RunSpec, ReferenceCheck]:
    """Record the reference anew by the model's definition, and where transformers parts from it.

    What transformers said as the reference stays as capture `ref_transformers`.

    Args:
        run: with transformers as its reference.
        found: that it contradicts.
        folder: of the run's captures; the reference's are replaced.
        run_task: runs a worker.
    """
    sampling = run.probe.sampling
    tapped: dict[str, Any] = {"temperature": sampling.temperature, "probes": True, "taps": True}
    tapped |= {"plan": run.probe.capture, "source": "decode"}
    theirs, ours = (
        ScoreJob(id=TRANSFORMERS, **tapped),
        ScoreJob(id=ON_TRANSFORMERS, replay_from=TRANSFORMERS, **tapped),
    )
    stages = [Stage(spec=run.ref, jobs=[theirs]), Stage(spec=definition_of(run), jobs=[ours])]
    run_task(_task(folder, *stages), "where-transformers-parts")
    location = first_difference(
        load_capture(folder / TRANSFORMERS)[0], load_capture(folder / ON_TRANSFORMERS)[0]
    )
    defined = run.model_copy(update={"ref": definition_of(run)})
    stages = reference_stages(defined)
    for job in (job for stage in stages for job in stage.jobs):
        shutil.rmtree(folder / job.id, ignore_errors=True)
    run_task(_task(folder, *stages), "reference-by-definition")
    return defined, found.model_copy(update={"location": location})


def first_difference(theirs: Capture, ours: Capture) -> str | None:
    """The first module whose output differs on equal inputs by more than float32 rounds.

    Args:
        theirs: hidden states of transformers, in float32.
        ours: what the definition's modules give for transformers' inputs.
    """
    for name in in_order(theirs):
        error, n = module_error(*module_pair(ours, theirs, name))
        if n and error > OTHER_FUNCTION:
            return name
    return None


def _apart(a: Capture, b: Capture) -> float:
    """mean |delta| over sampled tokens with finite log-probs, nats; NaN without any."""
    delta = np.abs(a.logp.astype(np.float64) - b.logp)[a.rows.sampled]
    finite = delta[np.isfinite(delta)]
    return float(finite.mean()) if len(finite) else math.nan


def _task(folder: Path, *stages: Stage) -> WorkerTask:
    return WorkerTask(captures_dir=str(folder.resolve()), stages=list(stages))
