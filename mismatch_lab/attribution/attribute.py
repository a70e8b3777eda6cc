"""From a mismatch to its causes: who is wrong, what explains it, what confirms it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mismatch_lab.attribution.changed_weights import kind_of_change, unexplained
from mismatch_lab.attribution.clues import Clues, read_config
from mismatch_lab.attribution.engine_update import old_tensors, outlived
from mismatch_lab.attribution.hypotheses import Explanation
from mismatch_lab.attribution.investigate import Inquiry, investigate, sound_in
from mismatch_lab.attribution.lab import Lab, PackedAs, open_session
from mismatch_lab.attribution.mixture import EXPLAINED
from mismatch_lab.attribution.naming import (
    NAMED,
    cause_observed,
    cause_of_grid,
    cause_of_weights,
    constants_of,
    fallback_decode,
    named_causes,
    own_cause,
    ruled_out,
)
from mismatch_lab.attribution.observed_causes import (
    coarse_module,
    misread_cause,
    observed_causes,
)
from mismatch_lab.attribution.pursuit import MOSTLY
from mismatch_lab.attribution.repairs import Repair, error_of, repair_for, resync
from mismatch_lab.attribution.self_disagreement import (
    OTHER_BATCH,
    TRAINING,
    Disagreement,
    self_disagreements,
)
from mismatch_lab.attribution.simulate import World
from mismatch_lab.attribution.suspects import SUSPECTS, Charge, charge_of, charges
from mismatch_lab.attribution.value_grid import rounded_sound, value_grid
from mismatch_lab.captures.capture import Capture
from mismatch_lab.errors import MismatchLabError
from mismatch_lab.findings.tensor_changes import changed_tensors
from mismatch_lab.schema import (
    Cause,
    Confirmation,
    ExperimentRecord,
    Localisation,
    Manifest,
    Measures,
    NoiseFloor,
    RuledOut,
    RunSpec,
    SideSpec,
)

OnEvent = Callable[[dict[str, Any]], None]
Rerun = Callable[[SideSpec, str, bool], Capture]
"""(side, capture id, in training mode) -> the side's scores of the run's tokens."""

BUDGET_S = 300.0
"""Seconds for experiments, where nothing else is asked."""

MATTERS = 0.05
"""The trainer's contradiction of itself counts as a cause of its error from this share on."""

HALF = 0.5
"""One simple defect that explains as much makes the trainer's contradiction its consequence:
coarse rounding falls otherwise in another batch."""


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
    decode_manifest: Manifest | None = None


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
        self.temperature = run.probe.sampling.temperature
        self.config = read_config(run.infer.model)
        self.manifest = found.decode_manifest
        before = run.infer.weights_before
        self.changes = {} if before is None else changed_tensors(before, run.infer.model)
        self.result = Attribution()

    def attribute(self, budget_s: float = BUDGET_S) -> Attribution:
        """Name the causes of a mismatch."""
        found = self.found
        limits = self.run.probe.limits
        charged = charges(found.captures, found.edges, found.floor, found.localisation, limits)
        own = self_disagreements(found.captures, charged[0].noise_nats)
        with ExitStack() as stack:
            session = stack.enter_context(open_session(self.run.ref, self.out))
            lab = self._lab(session, budget_s)
            given: Explanation = ()
            sound_engine = True
            for charge in charged:
                self._say(f"looking for what explains the {charge.suspect}")
                if charge.suspect == "decode":
                    self._decode(charge, lab, given, sound_engine)
                    continue
                inquiry = self._model(charge, lab, own)
                if charge.suspect == "infer":
                    given, sound_engine = inquiry.whole, inquiry.done
            self._training_mode(own)
            self._constants({charge.suspect for charge in charged}, charged[0].noise_nats)
            self._record_lab(lab)
        self.result.causes.sort(key=lambda cause: -cause.confidence)
        return self.result

    def _lab(self, session: Any, budget_s: float) -> Lab:
        probe = self.found.captures["ref"].probe_logp
        train = self.run.train.args
        packed = PackedAs(
            int(train.get("micro_batch", 4)), self.run.probe.capture, self.run.depth != "quick"
        )
        vocabulary = 0 if probe is None else probe.shape[1]
        return Lab(
            session,
            self.temperature,
            vocabulary,
            budget_s,
            packed if train.get("packing") else None,
        )

    def _model(self, charge: Charge, lab: Lab, own: list[Disagreement]) -> Inquiry:
        """The trainer, or the engine's re-scoring, against the reference."""
        given: Explanation = ()
        if charge.suspect == "infer":
            noise = charge.noise_nats
            old, given = old_tensors(
                self.run, self.found.captures, self.found.localisation, lab, noise
            )
            self.result.causes += old
            if given:
                charge = sound_in(lab, given, charge, self.temperature)
            if charge.error_nats <= noise or (old and charge.error_nats <= old_share(old)):
                return Inquiry(charge, [], given=given, left_nats=charge.error_nats)
        tensors = self.found.weights.get(charge.suspect, ())
        misread = None if tensors else misread_cause(charge, self.found.captures)
        if misread is not None:
            return self._misread(cause_observed(charge, misread), charge, own)
        inquiry = self._search(charge, lab, given, None)
        named = named_causes(inquiry, self.found.localisation)
        if charge.suspect == "train":
            named = self._with_own(named, inquiry, own, lab)
        left = unexplained(tensors, {cause.id for cause in named})
        if left and not inquiry.done:
            named, inquiry = self._weights(charge, lab, left, named, inquiry)
        elif not inquiry.done and not any(c.confidence > MOSTLY for c in named):
            observed = observed_causes(
                charge, self.found.captures, self.found.localisation, not tensors
            )
            named = [cause_observed(charge, o) for o in observed] + named
        self._take(named, inquiry)
        return inquiry

    def _decode(self, charge: Charge, lab: Lab, given: Explanation, sound_engine: bool) -> None:
        """The engine's sampling against its own re-scoring."""
        if self.run.infer.weights_before is not None and self.manifest is not None:
            causes = outlived(self.found.captures, self.manifest, charge.noise_nats)
            if causes:
                self.result.causes += causes
                return
        if sound_engine:
            charge = sound_in(lab, given, charge, self.temperature)
            inquiry = self._search(charge, lab, given, None)
        else:
            inquiry = self._search(charge, lab, (), self.found.captures["prefill"])
        named = named_causes(inquiry, self.found.localisation)
        if not named and not inquiry.done:
            named = [fallback_decode(inquiry, self.run.infer.weights_before is not None)]
        self._take(named, inquiry)

    def _search(self, charge: Charge, lab: Lab, given: Explanation, own: Capture | None) -> Inquiry:
        rows = self.found.captures["decode"].rows
        grid = value_grid(charge.observed, rows)
        if grid is not None:
            given = (*given, grid.hypothesis)
            rounded = rounded_sound(charge, grid, rows)
            self.result.causes.append(cause_of_grid(charge, grid, rounded.error_nats))
            charge = rounded
        packs = bool(self.run.train.args.get("packing", False))
        clues = Clues(
            charge.suspect,
            self.config,
            self.run.probe.sampling,
            weights_before=self.run.infer.weights_before,
            changed=tuple(self.changes),
            low_rank=tuple(n for n, c in self.changes.items() if c.rank is not None),
            first_wrong=_first_layer(self.found.localisation, charge.suspect),
            micro_batch=2 if packs else 1,
        )
        return investigate(charge, clues, rows, World(lab, own, self.temperature), given)

    def _misread(self, cause: Cause, charge: Charge, own: list[Disagreement]) -> Inquiry:
        """Other tokens were read: no change to the model can be told beside that, only whether
        the trainer contradicts itself.
        """
        mine = [o for o in own if o.against != TRAINING and charge.suspect == "train"]
        self.result.causes += [cause, *(own_cause(o, self.found.localisation) for o in mine)]
        return Inquiry(charge, [])

    def _with_own(
        self, named: list[Cause], inquiry: Inquiry, own: list[Disagreement], lab: Lab
    ) -> list[Cause]:
        """A trainer that contradicts itself, unless one simple defect explains all of it."""
        charge = inquiry.charge
        mine = [o for o in own if o.against != TRAINING]
        best = inquiry.pursuit.best
        explained = inquiry.done or (best is not None and best.explained >= HALF)
        if not mine or explained or mine[0].abs_delta_nats < MATTERS * charge.error_nats:
            return named
        if mine[0].against == OTHER_BATCH:
            located = coarse_module(charge, self.found.localisation, weights_equal=True)
            if located is not None and located.cause != "router-precision":
                # Coarse rounding falls otherwise in another batch.
                return [cause_observed(charge, located), *named]
            return [
                own_cause(mine[0], self.found.localisation),
                *(c for c in named if c.confidence > MOSTLY),
            ]
        return self._without_dropout(mine[0], named, charge, lab)

    def _without_dropout(
        self, own: Disagreement, named: list[Cause], charge: Charge, lab: Lab
    ) -> list[Cause]:
        """A random trainer: disable dropout on trial, and look at what is left without it."""
        cause = own_cause(own, self.found.localisation)
        repair = repair_for("dropout-active", self.run)
        after = None if repair is None else self._try(repair, "train")
        if repair is None or after is None:
            return [cause, *(c for c in named if c.confidence > MOSTLY)]
        left = error_of(after, charge.sound)
        if left >= charge.error_nats:
            return [cause, *(c for c in named if c.confidence > MOSTLY)]
        before = charge.error_nats
        cause = self._with(cause, f"trainer with {repair.label}", before, left)
        repaired = replace(charge, observed=after.logp.astype(np.float64), error_nats=left)
        rest = self._search(repaired, lab, (), None)
        found = named_causes(rest, self.found.localisation)
        return [cause, *(found or self._against_own_logits(charge))]

    def _against_own_logits(self, charge: Charge) -> list[Cause]:
        """Routers that choose against their own logits are wrong, whatever is random beside."""
        found = observed_causes(charge, self.found.captures, None, weights_equal=True)
        exact = ("routing-flips", "router-bias")
        return [cause_observed(charge, o) for o in found if o.cause in exact]

    def _training_mode(self, own: list[Disagreement]) -> None:
        """RL takes its gradients in training mode: what happens there alone counts too."""
        known = {cause.id for cause in self.result.causes}
        for found in own:
            if found.against == TRAINING and found.cause not in known:
                self.result.causes.append(self._confirmed_in_training(found))

    def _confirmed_in_training(self, own: Disagreement) -> Cause:
        """Put the suspected part back, and compare the passes of both modes again."""
        cause = own_cause(own, None)
        repair = repair_for(cause.id, self.run)
        if repair is None:
            return cause
        scored = self._try(repair, "train")
        trained = None if scored is None else self._try(repair, "train", train_mode=True)
        if scored is None or trained is None:
            return cause
        left = error_of(trained, scored.logp.astype(np.float64))
        experiment = f"trainer with {repair.label}, training against evaluation mode"
        return self._with(cause, experiment, own.abs_delta_nats, left)

    def _constants(self, judged: set[str], noise_nats: float) -> None:
        """Constants among the log-probs count even where they move no average."""
        for suspect in SUSPECTS:
            if suspect in judged:
                continue
            one = charge_of(suspect, self.found.captures, noise_nats)
            self.result.causes += constants_of(one, self.found.captures["decode"].rows)

    def _weights(
        self,
        charge: Charge,
        lab: Lab,
        tensors: tuple[str, ...],
        named: list[Cause],
        inquiry: Inquiry,
    ) -> tuple[list[Cause], Inquiry]:
        """Weights that are not the checkpoint's: put them back, and look at what is left."""
        every = list(self.found.captures["ref"].weights)
        kind = kind_of_change(tensors, every, bool(self.config.get("tie_word_embeddings")))
        cause = cause_of_weights(charge, tensors, kind, 0.85)
        side = self.run.train if charge.suspect == "train" else self.run.infer
        repair = resync(side, tensors)
        after = self._try(repair, charge.suspect)
        if after is None:
            return [cause, *named], inquiry
        left = error_of(after, charge.sound)
        cause = self._with(cause, f"{charge.suspect} with {repair.label}", charge.error_nats, left)
        repaired = replace(charge, observed=after.logp.astype(np.float64), error_nats=left)
        if left >= charge.error_nats:
            return [*named, cause.model_copy(update={"confidence": 0.3})], inquiry
        cause = cause.model_copy(update={"confidence": 0.95})
        if left <= charge.noise_nats:
            return [cause], inquiry
        rest = self._search(repaired, lab, (), None)
        found = [c for c in named_causes(rest, self.found.localisation) if c.id != cause.id]
        return [cause, *found], rest

    def _take(self, named: list[Cause], inquiry: Inquiry) -> None:
        kept = [self._confirmed(cause, inquiry) for cause in named]
        self.result.causes += kept
        self.result.ruled_out += ruled_out(inquiry, {c.id for c in self.result.causes})
        if not inquiry.pursuit.finished:
            self.result.notes.append("The budget for experiments ended the search early.")

    def _confirmed(self, cause: Cause, inquiry: Inquiry) -> Cause:
        """Repair the suspected part alone on the trainer, and see whether the effect goes."""
        if inquiry.charge.suspect != "train" or cause.confidence < NAMED:
            return cause
        repair = None if cause.confirmed_by[1:] else repair_for(cause.id, self.run)
        if cause.id == "dropout-active":
            return cause
        after = None if repair is None else self._try(repair, "train")
        if repair is None or after is None:
            return cause
        left = error_of(after, inquiry.charge.sound)
        return self._with(cause, f"trainer with {repair.label}", inquiry.charge.error_nats, left)

    def _try(self, repair: Repair, side: str, train_mode: bool = False) -> Capture | None:
        """The side's scores with the repair; None where it cannot be run so."""
        self._say(f"repair on trial: {repair.label}")
        began = time.monotonic()
        try:
            name = f"repair{len(self.result.experiments)}"
            capture = self.rerun(repair.spec, name, train_mode)
            result = "scored the run's tokens again"
        except MismatchLabError as error:
            capture, result = None, f"could not be run: {error.problem}"
        where: Literal["train", "infer"] = "train" if side == "train" else "infer"
        cost_s = time.monotonic() - began
        name = f"{side} with {repair.label}"
        self.result.experiments.append(
            ExperimentRecord(name=name, side=where, cost_s=cost_s, result=result)
        )
        return capture

    def _with(self, cause: Cause, experiment: str, before: float, after: float) -> Cause:
        record = Confirmation(
            experiment=f"{experiment}, mean |delta| in nats", before=before, after=after
        )
        return cause.model_copy(update={"confirmed_by": [*cause.confirmed_by, record]})

    def _record_lab(self, lab: Lab) -> None:
        if not lab.spent:
            return
        kinds = {a.name for alterations, _, _ in lab.spent for a in alterations}
        self.result.experiments.append(
            ExperimentRecord(
                name=f"reference altered in {len(lab.spent)} ways",
                side="neither",
                cost_s=sum(lab.spent.values()),
                result=f"{len(kinds)} kinds of defect simulated on the run's own tokens",
            )
        )

    def _say(self, text: str) -> None:
        self.on_event({"event": "stage", "text": text})


def old_share(causes: list[Cause]) -> float:
    """What may be left of the error where the mixture of old and new explains it, in nats."""
    before = max((c.before for cause in causes for c in cause.confirmed_by), default=0.0)
    return EXPLAINED * before


def _first_layer(localisation: Localisation | None, suspect: str) -> int | None:
    """The first layer that leaves its floor on the suspect's side, if it is known."""
    side = "train" if suspect == "train" else "infer"
    if localisation is None or localisation.side != side or suspect == "decode":
        return None
    found = re.match(r"model\.layers\.(\d+)", localisation.first_divergent_module or "")
    return int(found.group(1)) if found else None
