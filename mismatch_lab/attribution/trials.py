"""Trials on the real side, and the record of every experiment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal

from mismatch_lab.attribution.experiments.base import Trial
from mismatch_lab.attribution.simulate import NEVER, Simulator
from mismatch_lab.captures.capture import Capture
from mismatch_lab.errors import MismatchLabError
from mismatch_lab.schema import ExperimentRecord, SideSpec
from mismatch_lab.schema.events import OnEvent, StageBegan

Captures = Mapping[str, Capture]

SCORED = "scored"
"""Capture of a trial that scores the run's own tokens."""

Rerun = Callable[[Trial], Captures]
"""Runs a trial: `SCORED`, or where it samples anew, `decode` and `prefill`."""


class Trials:
    """Runs trials, and keeps what was run."""

    def __init__(
        self,
        rerun: Rerun,
        on_event: OnEvent,
        deadline: float | None = None,
        cost_s: Mapping[str, float] | None = None,
    ) -> None:
        """Args:
        rerun: runs a trial on the real side.
        on_event: is told what happens.
        deadline: of the monotonic clock; a trial that would end later is not begun.
        cost_s: side -> seconds that a trial on it takes, as far as known.
        """
        self.rerun = rerun
        self.on_event = on_event
        self.deadline = time.monotonic() + NEVER if deadline is None else deadline
        self.cost_s = dict(cost_s or {})
        self.records: list[ExperimentRecord] = []
        self.skipped: list[str] = []
        """Trials that the budget did not pay for."""
        self._kept: dict[str, Captures | None] = {}

    def attempt(
        self, label: str, trial: Trial, suspect: str, slower: float = 1.0
    ) -> Captures | None:
        """What the side says with one thing changed; None where it cannot be run so, or not within
        the budget.

        Args:
            label: what is changed, for people.
            trial: the changed side and what it is asked.
            suspect: whose error is examined.
            slower: seconds it takes, in those that the side took at first.
        """
        where: Literal["train", "infer"] = "train" if suspect == "train" else "infer"
        name, key = f"{suspect} with {label}", _key(trial)
        if key in self._kept:
            return self._kept[key]
        if time.monotonic() + slower * self.cost_s.get(where, 0.0) > self.deadline:
            self.skipped.append(name)
            return None
        self.say(f"on trial: {name}")
        began = time.monotonic()
        captures: Captures | None
        try:
            captures = self.rerun(trial)
            what = "scored the run's tokens" if trial.sampling is None else "sampled and scored"
            result = f"{what} again"
        except MismatchLabError as error:
            captures, result = None, f"could not be run: {error.problem}"
        cost_s = time.monotonic() - began
        self.records.append(ExperimentRecord(name=name, side=where, cost_s=cost_s, result=result))
        self._kept[key] = captures
        return captures

    def found(self, label: str, suspect: str, result: str) -> None:
        """Say what came of a trial."""
        name = f"{suspect} with {label}"
        self.records = [
            one.model_copy(update={"result": result}) if one.name == name else one
            for one in self.records
        ]

    def rescore(
        self, label: str, spec: SideSpec, suspect: str, train_mode: bool = False
    ) -> Capture | None:
        """Scores of the run's tokens by a side put right in one thing; None as for `attempt`."""
        captures = self.attempt(label, Trial(spec, train_mode=train_mode), suspect)
        return None if captures is None else captures[SCORED]

    def record_simulations(self, simulator: Simulator) -> None:
        """All simulations as one entry."""
        if not simulator.spent:
            return
        kinds = {a.name for alterations, _, _ in simulator.spent for a in alterations}
        self.records.append(
            ExperimentRecord(
                name=f"reference altered in {len(simulator.spent)} ways",
                side="neither",
                cost_s=sum(simulator.spent.values()),
                result=f"{len(kinds)} kinds of defect simulated on the run's own tokens",
            )
        )

    def say(self, text: str) -> None:
        """Tell the user what is going on."""
        self.on_event(StageBegan(text))


def _key(trial: Trial) -> str:
    """Equal for equal trials: nothing is run twice."""
    sampling = trial.sampling.model_dump_json() if trial.sampling else ""
    return f"{trial.spec.model_dump_json()} {sampling} {trial.routing_from} {trial.train_mode}"
