"""Simulation: what a sound program would say if a hypothesis held, token by token.

The fp32 reference, altered as a hypothesis says, scores the run's own tokens. Nothing is computed
twice: captures are kept by what was altered.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from mismatch_lab.attribution.changes import TOKEN_CHANGES, Float64, change_rows, distributions_of
from mismatch_lab.attribution.hypotheses import Explanation, Hypothesis
from mismatch_lab.attribution.thresholds import THRESHOLDS
from mismatch_lab.captures.capture import Capture, Int64
from mismatch_lab.engines.jobs import ScoreJob
from mismatch_lab.errors import NoRoomError, NotApplicableError
from mismatch_lab.executors.kept import EXPERIMENTS
from mismatch_lab.executors.session import Session
from mismatch_lab.interventions import CONTROLS
from mismatch_lab.schema import Alteration, CapturePlan, Packing, SideSpec

Key = tuple[tuple[Alteration, ...], Packing | None, int | None]


NEVER = 1e9


class Scorer(Protocol):
    """What the simulator needs of a session."""

    def score(self, job: ScoreJob) -> Capture:
        """Score the job's rows."""
        ...


class OutOfTimeError(Exception):
    """The budget for experiments is used up."""


class Simulator:
    """Scores with the reference under any alterations."""

    def __init__(
        self,
        scorer: Scorer,
        temperature: float,
        vocabulary: int,
        budget_s: float = NEVER,
    ) -> None:
        self.scorer = scorer
        self.temperature = temperature
        self.positions = max(64, THRESHOLDS.distributions_bytes // (4 * max(vocabulary, 1)))
        self.deadline = time.monotonic() + budget_s
        self.spent: dict[Key, float] = {}
        """Seconds of every experiment that ran."""
        self.no_room: set[str] = set()
        """Alterations that did not fit into memory."""
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
        replaced = self._scored(((off,), None, THRESHOLDS.control_rows))
        plain = self._scored(((), None, THRESHOLDS.control_rows))
        if replaced is None or plain is None:
            return
        delta = np.abs(replaced.logp.astype(np.float64) - plain.logp)[plain.rows.sampled]
        nats = float(np.nanmean(delta)) if np.isfinite(delta).any() else 0.0
        if nats > THRESHOLDS.control_nats:
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
        job = ScoreJob(
            id=f"altered-{len(self._kept)}",
            source="decode",
            temperature=self.temperature,
            plan=CapturePlan(probe_positions=self.positions),
            probes=True,
            alter=alterations,
            packing=packing,
            packs_from=None if packing is None else "train",
            first_rows=first_rows,
        )
        try:
            return self.scorer.score(job)
        except NotApplicableError:
            return None
        except NoRoomError:
            self.no_room.update(alteration.name for alteration in alterations)
            return None


def open_session(reference: SideSpec, run_dir: Path) -> Session:
    """The reference in fp32, in a process of its own."""
    batched = reference.engine in ("hf", "definition")
    args = {**reference.args, "micro_batch": 8} if batched else reference.args
    spec = reference.model_copy(update={"dtype": "float32", "args": args})
    keep = run_dir / EXPERIMENTS
    return Session(spec, run_dir / "captures", "lab", run_dir / "logs", keep)


@dataclass(frozen=True)
class Prediction:
    """Log-probs of sampled tokens under an explanation."""

    flat: Int64
    """[N] flat token indices, ascending."""
    logp: Float64
    """[N]; NaN where the explanation says nothing."""


class Predictor:
    """A sound program to change: the simulated reference, or a capture of the suspect's own."""

    def __init__(
        self,
        simulator: Simulator,
        own: Capture | None,
        temperature: float,
        first_rows: int | None = None,
    ) -> None:
        """Args:
        simulator: the reference.
        own: the suspect's own sound capture, if it is held against that and not against the
            reference. What an altered model would change is then carried over from the simulator.
        temperature: of the run.
        first_rows: only these.
        """
        self.simulator = simulator
        self.own = own
        self.temperature = temperature
        self.first_rows = first_rows

    def small(self, first_rows: int) -> Predictor:
        """The same on the first rows only, for exploring."""
        return Predictor(self.simulator, self.own, self.temperature, first_rows)

    def predict(self, explanation: Explanation) -> Prediction | None:
        """None where the model has no part that the explanation changes.

        Raises:
            OutOfTimeError: the experiment is not paid for by the budget.
        """
        base = self._base(explanation)
        if base is None:
            return None
        logp = base.logp.astype(np.float64)
        flat = np.flatnonzero(base.rows.sampled)
        row_changes = [change for h in explanation for change in h.rows]
        if row_changes:
            if base.probe_logp is None or any(h.tokens for h in explanation if not _local(h)):
                return None
            probes = np.flatnonzero(base.rows.sampled[base.probe_positions])
            flat = base.probe_positions[probes]
            distributions = distributions_of(base, probes, self.temperature)
            for change in row_changes:
                changed = change_rows(distributions, change)
                distributions = replace(distributions, logp=changed)
            logp = np.full(len(logp), np.nan)
            logp[flat] = distributions.logp[np.arange(len(flat)), base.rows.token_ids[flat]]
        for hypothesis in explanation:
            for token_change in hypothesis.tokens:
                change_tokens = TOKEN_CHANGES[token_change.name]
                logp = change_tokens(logp, base.rows, token_change.value)
        return Prediction(flat, logp[flat])

    def _base(self, explanation: Explanation) -> Capture | None:
        alterations = tuple(a for h in explanation for a in h.model)
        packing = next((h.packing for h in explanation if h.packing), None)
        if self.own is None:
            return self.simulator.score(alterations, packing, self.first_rows)
        if not alterations and packing is None:
            return self.own
        plain = self.simulator.score((), None, self.first_rows)
        changed = self.simulator.score(alterations, packing, self.first_rows)
        if plain is None or changed is None:
            return None
        carried = self.own.logp[: len(plain.logp)] + (changed.logp - plain.logp)
        return replace(changed, logp=carried, probe_logp=None, probe_lse=None)


def _local(hypothesis: Hypothesis) -> bool:
    """Whether its token changes look at one token at a time."""
    names = {change.name for change in hypothesis.tokens}
    return "shift" not in names
