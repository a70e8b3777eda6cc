"""Repairs on trial, run on the real side, and the record of every experiment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from mismatch_lab.attribution.lab import Lab
from mismatch_lab.attribution.repairs import Repair
from mismatch_lab.captures.capture import Capture
from mismatch_lab.errors import MismatchLabError
from mismatch_lab.schema import Cause, Confirmation, ExperimentRecord, SideSpec

OnEvent = Callable[[dict[str, Any]], None]
Rerun = Callable[[SideSpec, str, bool], Capture]
"""(side, capture id, in training mode) -> the side's scores of the run's tokens."""


class Trials:
    """Runs repairs, and keeps what was run."""

    def __init__(self, rerun: Rerun, on_event: OnEvent) -> None:
        self.rerun = rerun
        self.on_event = on_event
        self.records: list[ExperimentRecord] = []

    def attempt(self, repair: Repair, side: str, train_mode: bool = False) -> Capture | None:
        """The side's scores with the repair; None where it cannot be run so."""
        self.say(f"repair on trial: {repair.label}")
        began = time.monotonic()
        try:
            capture = self.rerun(repair.spec, f"repair{len(self.records)}", train_mode)
            result = "scored the run's tokens again"
        except MismatchLabError as error:
            capture, result = None, f"could not be run: {error.problem}"
        where: Literal["train", "infer"] = "train" if side == "train" else "infer"
        self.records.append(
            ExperimentRecord(
                name=f"{side} with {repair.label}",
                side=where,
                cost_s=time.monotonic() - began,
                result=result,
            )
        )
        return capture

    def record_lab(self, lab: Lab) -> None:
        """All simulations as one entry."""
        if not lab.spent:
            return
        kinds = {a.name for alterations, _, _ in lab.spent for a in alterations}
        self.records.append(
            ExperimentRecord(
                name=f"reference altered in {len(lab.spent)} ways",
                side="neither",
                cost_s=sum(lab.spent.values()),
                result=f"{len(kinds)} kinds of defect simulated on the run's own tokens",
            )
        )

    def say(self, text: str) -> None:
        """Tell the user what is going on."""
        self.on_event({"event": "stage", "text": text})


def confirmed_by(cause: Cause, experiment: str, before: float, after: float) -> Cause:
    """The cause with one more experiment that speaks for it, or against it."""
    record = Confirmation(
        experiment=f"{experiment}, mean |delta| in nats", before=before, after=after
    )
    return cause.model_copy(update={"confirmed_by": [*cause.confirmed_by, record]})
