"""The lab: the fp32 reference, altered as a hypothesis says, scoring the run's own tokens.

Nothing is computed twice: captures are kept by what was altered.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mismatch_lab.captures.capture import Capture
from mismatch_lab.engines.alterations import CONTROLS
from mismatch_lab.engines.jobs import ScoreJob
from mismatch_lab.errors import NotApplicableError
from mismatch_lab.executors.session import Session
from mismatch_lab.schema import Alteration, CapturePlan, Packing, SideSpec

Key = tuple[tuple[Alteration, ...], Packing | None, int | None]

FULL_ROWS_BYTES = 48 << 20
"""Memory for whole distributions: as many sampled positions as fit are recorded in full."""

NEVER = 1e9

CONTROL_ROWS = 2
"""Rows for controls: code that computes something else shows in every row."""

CONTROL_NATS = 3e-5
"""mean |delta| up to which two pieces of code compute the same thing in float32: ten times what
programs differ by on small models, since deep ones differ more."""


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
        self.moved: dict[str, float] = {}
        """Alteration that puts code of ours into the reference -> mean |delta| in nats that this
        code makes by itself, the defect switched off; only those that make any."""
        self._kept: dict[Key, Capture | None] = {}
        self._controlled: set[str] = set()

    def score(
        self,
        alterations: tuple[Alteration, ...],
        packing: Packing | None = None,
        first_rows: int | None = None,
    ) -> Capture | None:
        """The altered reference on the run's rows; None where the model has no such part, or where
        the code that alters it moves the reference by itself.

        Raises:
            OutOfTimeError: the budget is used up and the result is not known yet.
        """
        for alteration in alterations:
            self._control(alteration)
        if any(alteration.name in self.moved for alteration in alterations):
            return None
        return self._scored((alterations, packing, first_rows if packing is None else None))

    def _control(self, alteration: Alteration) -> None:
        """Run code that replaces the reference's own with its defect switched off, once."""
        name = alteration.name
        if name not in CONTROLS or name in self._controlled:
            return
        self._controlled.add(name)
        off = Alteration(name=name, value=CONTROLS[name])
        replaced = self._scored(((off,), None, CONTROL_ROWS))
        plain = self._scored(((), None, CONTROL_ROWS))
        if replaced is None or plain is None:
            return
        delta = np.abs(replaced.logp.astype(np.float64) - plain.logp)[plain.rows.sampled]
        nats = float(np.nanmean(delta)) if np.isfinite(delta).any() else 0.0
        if nats > CONTROL_NATS:
            self.moved[name] = nats

    def _scored(self, key: Key) -> Capture | None:
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
