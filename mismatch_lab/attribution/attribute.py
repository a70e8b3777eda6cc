"""From a mismatch to its causes: who is wrong, what explains it, what confirms it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mismatch_lab.attribution.clues import Clues, read_config
from mismatch_lab.attribution.hypotheses import Explanation
from mismatch_lab.attribution.investigate import Inquiry, investigate, sound_in
from mismatch_lab.attribution.lab import Lab, open_session
from mismatch_lab.attribution.naming import named_causes, ruled_out
from mismatch_lab.attribution.repairs import Rerun, error_of, repair_for
from mismatch_lab.attribution.self_disagreement import Disagreement, self_disagreement
from mismatch_lab.attribution.simulate import World
from mismatch_lab.attribution.suspects import Charge, charges
from mismatch_lab.captures.capture import Capture
from mismatch_lab.schema import (
    Cause,
    Confirmation,
    ExperimentRecord,
    Localisation,
    Measures,
    NoiseFloor,
    RuledOut,
    RunSpec,
)

OnEvent = Callable[[dict[str, Any]], None]

BUDGET_S = 300.0
"""Seconds for experiments, where nothing else is asked."""

OWN_SHARE = 1.5
"""An error of at most this many times the trainer's contradiction of itself needs no other
explanation."""


@dataclass
class Attribution:
    """What `attribute` found."""

    causes: list[Cause] = field(default_factory=list)
    ruled_out: list[RuledOut] = field(default_factory=list)
    experiments: list[ExperimentRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Measured:
    """What is known before any experiment."""

    captures: Mapping[str, Capture]
    edges: Mapping[str, Measures]
    floor: NoiseFloor
    localisation: Localisation | None
    weights: Mapping[str, tuple[str, ...]]
    """suspect -> checkpoint tensors whose fingerprints are not the reference's."""


class Attributor:
    """Runs experiments for one run, and keeps the record of them."""

    def __init__(
        self, run: RunSpec, out: Path, found: Measured, rerun: Rerun, on_event: OnEvent
    ) -> None:
        self.run = run
        self.out = out
        self.found = found
        self.rerun = rerun
        self.on_event = on_event
        self.result = Attribution()

    def attribute(self, budget_s: float = BUDGET_S) -> Attribution:
        """Name the causes of a mismatch."""
        charged = charges(
            self.found.captures,
            self.found.edges,
            self.found.floor,
            self.found.localisation,
            self.run.probe.limits,
        )
        own = self_disagreement(self.found.captures, charged[0].noise_nats)
        with ExitStack() as stack:
            session = stack.enter_context(open_session(self.run.ref, self.out))
            probe = self.found.captures["ref"].probe_logp
            lab = Lab(
                session,
                self.run.probe.sampling.temperature,
                0 if probe is None else probe.shape[1],
                budget_s,
            )
            given: Explanation = ()
            for charge in charged:
                inquiry = self._inquire(charge, lab, given, own)
                if inquiry is not None and charge.suspect == "infer":
                    given = inquiry.explanation
            self._record_lab(lab)
        self.result.causes.sort(key=lambda cause: -cause.confidence)
        return self.result

    def _inquire(
        self, charge: Charge, lab: Lab, given: Explanation, own: Disagreement | None
    ) -> Inquiry | None:
        self._say(f"looking for what explains the {charge.suspect}")
        if own is not None and charge.suspect == "train":
            random = own.against != "train_micro_batch"
            if random and charge.error_nats <= OWN_SHARE * own.abs_delta_nats:
                self._name_own(own)
                return None
        if charge.suspect == "decode":
            charge = sound_in(lab, given, charge, self.run.probe.sampling.temperature)
        else:
            given = ()
        world = World(lab, None, self.run.probe.sampling.temperature)
        rows = self.found.captures["decode"].rows
        inquiry = investigate(charge, self._clues(charge), rows, world, given)
        explained = inquiry.pursuit.best
        if own is not None and charge.suspect == "train":
            small = explained is None or explained.explained < 0.8
            if small:
                self._name_own(own)
                if charge.error_nats <= OWN_SHARE * own.abs_delta_nats:
                    return inquiry
        tensors = self.found.weights.get(charge.suspect, ())
        causes = named_causes(inquiry, self.found.localisation, tensors)
        self.result.causes += [self._confirmed(cause, inquiry, tensors) for cause in causes]
        self.result.ruled_out += ruled_out(inquiry, {c.id for c in self.result.causes})
        if not inquiry.pursuit.finished:
            self.result.notes.append("The budget for experiments ended the search early.")
        return inquiry

    def _clues(self, charge: Charge) -> Clues:
        run = self.run
        return Clues(
            charge.suspect,
            read_config(run.infer.model),
            run.probe.sampling,
            weights_before=run.infer.weights_before,
            micro_batch=int(run.train.args.get("micro_batch", 4)) if self._packs() else 1,
        )

    def _packs(self) -> bool:
        return bool(self.run.train.args.get("packing", False))

    def _name_own(self, own: Disagreement) -> None:
        from mismatch_lab.attribution.naming import own_cause

        cause = own_cause(own, self.found.captures, self.found.localisation)
        repair = repair_for(cause.id, self.run)
        if repair is not None:
            after = self._repaired(repair.label, repair.spec)
            if after is not None:
                sound = self.found.captures["ref"].logp.astype(np.float64)
                before = error_of(self.found.captures["train"], sound)
                cause = self._with(cause, f"trainer with {repair.label}", before, error_of(after, sound))
        self.result.causes.append(cause)

    def _confirmed(self, cause: Cause, inquiry: Inquiry, tensors: tuple[str, ...]) -> Cause:
        """Repair the suspected thing alone on the trainer, and see whether the effect goes."""
        if inquiry.charge.suspect != "train":
            return cause
        stale = tensors if cause.id in ("stale-tensor", "untied-head") else ()
        repair = repair_for(cause.id, self.run, stale)
        after = None if repair is None else self._repaired(repair.label, repair.spec)
        if repair is None or after is None:
            return cause
        sound = inquiry.charge.sound
        before = inquiry.charge.error_nats
        return self._with(cause, f"trainer with {repair.label}", before, error_of(after, sound))

    def _repaired(self, label: str, spec: Any) -> Capture | None:
        self._say(f"repairing the trainer on trial: {label}")
        began = time.monotonic()
        capture = self.rerun(spec, f"repair{len(self.result.experiments)}")
        cost = time.monotonic() - began
        self._log(f"trainer with {label}", "train", cost, "scored the run's tokens")
        return capture

    def _with(self, cause: Cause, experiment: str, before: float, after: float) -> Cause:
        record = Confirmation(experiment=experiment, before=before, after=after)
        return cause.model_copy(update={"confirmed_by": [*cause.confirmed_by, record]})

    def _record_lab(self, lab: Lab) -> None:
        if lab.spent:
            names = {a.name for alterations, _, _ in lab.spent for a in alterations}
            self._log(
                f"reference altered in {len(lab.spent)} ways",
                "neither",
                sum(lab.spent.values()),
                f"{len(names)} kinds of defect simulated on the run's own tokens",
            )

    def _log(
        self,
        name: str,
        side: Literal["infer", "train", "sync", "both", "neither"],
        cost_s: float,
        result: str,
    ) -> None:
        self.result.experiments.append(
            ExperimentRecord(name=name, side=side, cost_s=cost_s, result=result)
        )

    def _say(self, text: str) -> None:
        self.on_event({"event": "stage", "text": text})
