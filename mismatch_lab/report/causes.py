"""What report and terminal say about causes beyond what the findings hold."""

from __future__ import annotations

from mismatch_lab.attribution.causes import CAUSES, CauseEntry, load_cause
from mismatch_lab.schema import Cause

DONE_TO = {
    "side": "",
    "unseen rows": ", on rows that nothing was fitted on",
    "record": ", in what was recorded",
}
"""`Confirmation.by`, as a sentence about the two values goes on."""


def tied(causes: list[Cause]) -> list[Cause]:
    """Causes that nothing observed tells apart: equal confidence, and an experiment to decide.

    Two faults at once may be equally certain too; there is then nothing to decide.
    """
    undecided = next((cause for cause in causes if cause.decides), None)
    if undecided is None:
        return []
    equal = [cause for cause in causes if cause.confidence == undecided.confidence]
    return equal if len(equal) > 1 else []


def known(causes: list[Cause]) -> dict[str, CauseEntry]:
    """id -> what the catalogue says of it, where it says anything."""
    return {cause.id: load_cause(cause.id) for cause in causes if cause.id in CAUSES}
