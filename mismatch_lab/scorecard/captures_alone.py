"""The black box: what `compare` says of the two sides' captures, judged apart from `diagnose`."""

from __future__ import annotations

from pathlib import Path

from mismatch_lab.captures.store import load_capture
from mismatch_lab.errors import MismatchLabError
from mismatch_lab.findings.compare import compare_findings
from mismatch_lab.schema import Limits
from mismatch_lab.scorecard.judge import judge
from mismatch_lab.scorecard.records import BlackBox, Case

NAMES = ("decode", "train")
"""What the engine returned while it sampled, and the trainer's log-probs of the same tokens."""


def ask_captures(case: Case, captures: Path) -> BlackBox:
    """The judged answer of captures alone: no module, no reference, no experiment."""
    try:
        infer, train = (load_capture(captures / name)[0] for name in NAMES)
        verdict = compare_findings(infer, train, NAMES, Limits()).verdict
    except MismatchLabError as error:
        return BlackBox(judgement=None, problem=error.problem)
    # Captures have no modules: nobody asks them for a place.
    truths = tuple(truth.model_copy(update={"location": None}) for truth in case.truths)
    asked = case.model_copy(update={"truths": truths})
    return BlackBox(
        judgement=judge(asked, verdict.status, verdict.causes),
        status=verdict.status,
        headline=verdict.headline,
        causes=tuple(verdict.causes),
    )
