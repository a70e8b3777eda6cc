"""The black box: what the record of a run says, judged apart from `diagnose` of the run.

`compare` has the captures of both sides; `diagnose CHECKPOINT --captures` the checkpoint as well.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

from mismatch_lab.captures.arrays import capture_from_arrays
from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.store import load_capture
from mismatch_lab.errors import MismatchLabError
from mismatch_lab.run.compare import compare_findings
from mismatch_lab.run.recorded import (
    ROWS,
    Record,
    build_recorded_run,
    diagnose_recorded,
    drawn_rows,
    looked_into,
    without_reference,
)
from mismatch_lab.run.request import DiagnoseRequest
from mismatch_lab.schema import Findings, Limits, RunSpec
from mismatch_lab.schema.events import OnEvent
from mismatch_lab.scorecard.judge import judge, parted
from mismatch_lab.scorecard.records import BlackBox, Case

NAMES = ("decode", "train")
"""What the engine returned while it sampled, and the trainer's log-probs of the same tokens."""
PATHS = (Path("decode.npz"), Path("train.npz"))
"""What its findings call the two."""


def ask_captures(case: Case, captures: Path) -> BlackBox:
    """The judged answer of captures alone: no module, no reference, no experiment."""

    def found() -> Findings:
        infer, train = (load_capture(captures / name)[0] for name in NAMES)
        return compare_findings(infer, train, NAMES, Limits())

    return _judged(case, found)


def ask_record(case: Case, run: RunSpec, captures: Path, out: Path, on_event: OnEvent) -> BlackBox:
    """The judged answer of the record with its checkpoint: no side is started.

    Args:
        case: what is asked for.
        run: whose sides made the captures; what its user would type is taken from it.
        captures: of the run; token ids, what was sampled and log-probs are taken, as .npz hold.
        out: folder of the diagnosis, which is made.
        on_event: is told what happens.
    """
    sampling = run.probe.sampling
    request = DiagnoseRequest(
        model=run.infer.model,
        dtype=case.dtype,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        weights_before=run.infer.weights_before,
    )

    def found() -> Findings:
        sides = {name: _as_arrays(load_capture(captures / name)[0]) for name in NAMES}
        record = Record(sides)
        known = without_reference(record, PATHS)
        if known is not None:
            return known
        rows = drawn_rows(looked_into(record), ROWS, 0)
        return diagnose_recorded(build_recorded_run(request, rows), rows, out, False, on_event)

    return _judged(case, found)


def _as_arrays(capture: Capture) -> Capture:
    rows, packs = capture.rows, capture.packs
    packed = {} if packs is None else {"packed_rows": packs[:, 0], "packed_places": packs[:, 1]}
    return capture_from_arrays(
        rows.token_ids, capture.logp, rows.sampled, row_offsets=rows.row_offsets, **packed
    )


def problem_of(error: Exception) -> str:
    """What went wrong, in a line; of a defect of the tool the place as well."""
    if isinstance(error, MismatchLabError):
        return error.problem
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"


def _judged(case: Case, find: Callable[[], Findings]) -> BlackBox:
    try:
        findings = find()
    except Exception as error:  # costs this answer, not the case
        return BlackBox(judgement=None, problem=problem_of(error))
    # A record has no modules: nobody asks it for a place.
    truths = tuple(truth.model_copy(update={"location": None}) for truth in case.truths)
    asked = case.model_copy(update={"truths": truths})
    verdict = findings.verdict
    return BlackBox(
        judgement=judge(asked, verdict.status, verdict.causes, parted(findings)),
        status=verdict.status,
        headline=verdict.headline,
        causes=tuple(verdict.causes),
    )
