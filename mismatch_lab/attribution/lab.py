"""The lab: the fp32 reference, altered as a hypothesis says, scoring the run's own tokens.

Nothing is computed twice: captures are kept by what was altered.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mismatch_lab.captures.capture import Capture
from mismatch_lab.engines.jobs import ScoreJob
from mismatch_lab.errors import NotApplicableError
from mismatch_lab.executors.session import Session
from mismatch_lab.schema import Alteration, CapturePlan, Packing, SideSpec

Key = tuple[tuple[Alteration, ...], Packing | None, int | None]

FULL_ROWS_BYTES = 48 << 20
"""Memory for whole distributions: as many sampled positions as fit are recorded in full."""

NEVER = 1e9


class Scorer(Protocol):
    """What the lab needs of a session."""

    def score(self, job: ScoreJob) -> Capture:
        """Score the job's rows."""
        ...


@dataclass(frozen=True)
class PackedAs:
    """How the trainer put rows together: a leak depends on which rows are neighbours."""

    micro_batch: int
    plan: CapturePlan
    taps: bool
    """Tapped rows are scored alone."""


class OutOfTimeError(Exception):
    """The budget for experiments is used up."""


class Lab:
    """Scores with the reference under any alterations."""

    def __init__(
        self,
        scorer: Scorer,
        temperature: float,
        vocabulary: int,
        budget_s: float = NEVER,
        packed: PackedAs | None = None,
    ) -> None:
        self.scorer = scorer
        self.packed = packed
        self.temperature = temperature
        self.positions = max(64, FULL_ROWS_BYTES // (4 * max(vocabulary, 1)))
        self.deadline = time.monotonic() + budget_s
        self.spent: dict[Key, float] = {}
        """Seconds of every experiment that ran."""
        self._kept: dict[Key, Capture | None] = {}

    def score(
        self,
        alterations: tuple[Alteration, ...],
        packing: Packing | None = None,
        first_rows: int | None = None,
    ) -> Capture | None:
        """The altered reference on the run's rows; None where the model has no such part.

        Raises:
            OutOfTimeError: the budget is used up and the result is not known yet.
        """
        key = (alterations, packing, first_rows if packing is None else None)
        if key not in self._kept:
            if time.monotonic() > self.deadline:
                raise OutOfTimeError
            began = time.monotonic()
            self._kept[key] = self._run(key)
            self.spent[key] = time.monotonic() - began
        return self._kept[key]

    def _run(self, key: Key) -> Capture | None:
        alterations, packing, first_rows = key
        together = self.packed if packing is not None else None
        job = ScoreJob(
            id=f"altered-{len(self._kept)}",
            source="decode",
            temperature=self.temperature,
            plan=together.plan if together else CapturePlan(probe_positions=self.positions),
            probes=True,
            taps=together.taps if together else False,
            alter=alterations,
            packing=packing,
            first_rows=first_rows,
            micro_batch=together.micro_batch if together else None,
        )
        try:
            return self.scorer.score(job)
        except NotApplicableError:
            return None


def open_session(reference: SideSpec, run_dir: Path) -> Session:
    """The reference in fp32, in a process of its own."""
    batched = reference.engine in ("hf", "definition")
    args = {**reference.args, "micro_batch": 8} if batched else reference.args
    spec = reference.model_copy(update={"dtype": "float32", "args": args})
    return Session(spec, run_dir / "captures", "lab", run_dir / "logs")
