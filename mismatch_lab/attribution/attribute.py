"""From a mismatch to its causes: who is wrong, what explains it, what confirms it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mismatch_lab.attribution.agreement import joined
from mismatch_lab.attribution.changed_weights import kind_of_change, unexplained
from mismatch_lab.attribution.confirm import confirmed, without_cause
from mismatch_lab.attribution.engine_update import old_tensors, outlived
from mismatch_lab.attribution.hypotheses import Explanation
from mismatch_lab.attribution.inquest import Inquest, Measured, Outcome
from mismatch_lab.attribution.investigate import Inquiry, sound_in
from mismatch_lab.attribution.lab import Lab, PackedAs, Scorer, open_session
from mismatch_lab.attribution.mixture import EXPLAINED
from mismatch_lab.attribution.naming import (
    cause_observed,
    cause_of_weights,
    constants_of,
    fallback_decode,
    named_causes,
    own_cause,
)
from mismatch_lab.attribution.observed_causes import misread_cause, observed_causes
from mismatch_lab.attribution.pursuit import MOSTLY
from mismatch_lab.attribution.repairs import error_of, resync
from mismatch_lab.attribution.sampled_otherwise import (
    asked_for,
    reported_nats,
    sampled_otherwise,
)
from mismatch_lab.attribution.self_disagreement import (
    TRAINING,
    Disagreement,
    self_disagreements,
)
from mismatch_lab.attribution.shared_code import on_whose_side
from mismatch_lab.attribution.suspects import (
    SUSPECTS,
    Charge,
    charge_of,
    charges,
    noise_of,
    side_of,
)
from mismatch_lab.attribution.trainer_itself import in_training_mode, with_own
from mismatch_lab.attribution.trials import OnEvent, Rerun, Trials, confirmed_by
from mismatch_lab.attribution.unlisted import CONVINCING, unlisted_cause
from mismatch_lab.findings.drawn import disproved
from mismatch_lab.plan import capture_plan
from mismatch_lab.schema import Cause, ExperimentRecord, RuledOut, RunSpec

BUDGET_S = 300.0
"""Seconds for experiments, where nothing else is asked."""


@dataclass(frozen=True)
class Attribution:
    """What `attribute` found."""

    causes: list[Cause]
    ruled_out: list[RuledOut]
    experiments: list[ExperimentRecord]
    notes: list[str]


def attribute(
    run: RunSpec,
    out: Path,
    found: Measured,
    rerun: Rerun,
    on_event: OnEvent,
    budget_s: float = BUDGET_S,
    cost_s: Mapping[str, float] | None = None,
) -> Attribution:
    """Name the causes of a mismatch.

    Args:
        run: what was asked.
        out: the run's folder.
        found: what was measured.
        rerun: asks a side that is changed on trial.
        on_event: is told what happens.
        budget_s: seconds for experiments.
        cost_s: side -> seconds that one trial on it takes.
    """
    trials = Trials(rerun, on_event, time.monotonic() + budget_s, cost_s)
    with open_session(run.ref, out) as session:
        lab = _lab(run, found, session, budget_s)
        outcome = _examine(Inquest(run, found, lab, trials))
        trials.record_lab(lab)
        outcome.notes += [_moved(name, nats) for name, nats in lab.moved.items()]
    if trials.skipped:
        outcome.notes.append(f"The budget did not pay for: {'; '.join(trials.skipped)}.")
    causes = sorted(outcome.causes, key=lambda cause: -cause.confidence)
    return Attribution(causes, outcome.ruled_out, trials.records, outcome.notes)


def _moved(name: str, nats: float) -> str:
    return (
        f"The reference itself is in doubt: {name}, with its defect switched off, moves it by "
        f"{nats:.2g} nats. What that simulation would explain is not named."
    )


def _lab(run: RunSpec, found: Measured, session: Scorer, budget_s: float) -> Lab:
    probe, train = found.captures["ref"].probe_logp, run.train.args
    packed = PackedAs(int(train.get("micro_batch", 4)), capture_plan(run), run.depth != "quick")
    return Lab(
        session,
        run.probe.sampling.temperature,
        0 if probe is None else probe.shape[1],
        budget_s,
        packed if train.get("packing") else None,
    )


def _examine(inquest: Inquest) -> Outcome:
    """Every suspect in turn, the engine's re-scoring before its sampling."""
    found = inquest.found
    charged = charges(
        found.captures, found.edges, found.floor, found.localisation, inquest.run.probe.limits
    )
    noise_nats = noise_of(found.floor, inquest.run.probe.limits)
    if found.drawn is not None and disproved(found.drawn):
        # Sampling otherwise is no error of log-probs: nobody else need be wrong.
        charged = [charge for charge in charged if charge.error_nats > charge.noise_nats]
    own = self_disagreements(found.captures, noise_nats)
    given: Explanation = ()
    sound_engine = True
    for charge in charged:
        inquest.trials.say(f"looking for what explains the {charge.suspect}")
        if charge.suspect == "decode":
            _decode(inquest, charge, given, sound_engine)
            continue
        inquiry = _model(inquest, charge, own)
        if charge.suspect == "infer":
            given, sound_engine = inquiry.whole, inquiry.done
    inquest.outcome.causes += in_training_mode(inquest, own)
    judged = {charge.suspect for charge in charged}
    for suspect in [one for one in SUSPECTS if one not in judged]:
        # Constants among the log-probs count even where they move no average.
        one = charge_of(suspect, found.captures, noise_nats)
        inquest.outcome.causes += constants_of(one, found.captures["decode"].rows)
    engine = {cause.id for cause in inquest.outcome.causes if cause.side == "infer"}
    reported = reported_nats(found.captures)
    inquest.outcome.causes += sampled_otherwise(found.drawn, reported, engine)
    inquest.outcome.strike_ruled_out(asked_for(inquest.run.probe.sampling))
    return inquest.outcome


def _model(inquest: Inquest, charge: Charge, own: list[Disagreement]) -> Inquiry:
    """The trainer, or the engine's re-scoring, against the reference."""
    found = inquest.found
    given: Explanation = ()
    if charge.suspect == "infer":
        charge, given, done = _since_update(inquest, charge)
        if done:
            return Inquiry(charge, [], given=given, left_nats=charge.error_nats)
    tensors = found.weights.get(charge.suspect, ())
    misread = None if tensors else misread_cause(charge, found.captures)
    if misread is not None:
        # No change to the model can be told beside that, only whether it contradicts itself.
        mine = [o for o in own if o.against != TRAINING and charge.suspect == "train"]
        inquest.outcome.causes.append(cause_observed(charge, misread))
        inquest.outcome.causes += [own_cause(o, found.localisation) for o in mine]
        return Inquiry(charge, [])
    inquiry = inquest.search(charge, given)
    named = named_causes(inquiry, found.localisation)
    if charge.suspect == "train":
        named = with_own(inquest, named, inquiry, own)
    left = unexplained(tensors, {cause.id for cause in named})
    if left:
        named, inquiry = _weights(inquest, charge, left, named, inquiry)
    elif not (inquiry.done and named) and not any(c.confidence > MOSTLY for c in named):
        seen = observed_causes(charge, found.captures, found.localisation, not tensors)
        named = joined([cause_observed(charge, o) for o in seen] + named)
    if not inquiry.done and not any(c.confidence > CONVINCING for c in named):
        unknown = unlisted_cause(charge, found.captures, found.localisation, inquest.config)
        named = [*([unknown] if unknown else []), *named]
    named = on_whose_side(_tested(inquest, charge, named), charge, found.reference)
    inquest.outcome.add(named, inquiry)
    return inquiry


def _since_update(inquest: Inquest, charge: Charge) -> tuple[Charge, Explanation, bool]:
    """Take what an update left old out of the charge; whether that is all there was."""
    found, noise_nats = inquest.found, charge.noise_nats
    old, given = old_tensors(
        inquest.run, found.captures, found.localisation, inquest.lab, noise_nats
    )
    inquest.outcome.causes += confirmed(inquest, charge, old)
    if given:
        charge = sound_in(inquest.lab, given, charge, inquest.temperature)
    before = max((c.before for cause in old for c in cause.confirmed_by), default=0.0)
    done = bool(old) and charge.error_nats <= max(noise_nats, EXPLAINED * before)
    return charge, given, done


def _decode(inquest: Inquest, charge: Charge, given: Explanation, sound_engine: bool) -> None:
    """The engine's sampling against its own re-scoring."""
    found, updated = inquest.found, inquest.run.infer.weights_before is not None
    if updated and found.decode_manifest is not None:
        causes = outlived(found.captures, found.decode_manifest, charge.noise_nats)
        if causes:
            inquest.outcome.causes += causes
            return
    if sound_engine:
        charge = sound_in(inquest.lab, given, charge, inquest.temperature)
        inquiry = inquest.search(charge, given)
    else:
        inquiry = inquest.search(charge, (), found.captures["prefill"])
    named = named_causes(inquiry, found.localisation)
    if not named and not inquiry.done:
        named = fallback_decode(inquiry, updated, sound_engine)
    inquest.outcome.add(_tested(inquest, charge, named), inquiry)


def _tested(inquest: Inquest, charge: Charge, named: list[Cause]) -> list[Cause]:
    """Causes after experiments on the side itself; without any, at least what takes it away."""
    if named:
        return confirmed(inquest, charge, named)
    if charge.error_nats <= charge.noise_nats:
        return []
    gone = without_cause(inquest, charge)
    if gone is not None:
        inquest.outcome.notes.append(gone)
    return named


def _weights(
    inquest: Inquest,
    charge: Charge,
    tensors: tuple[str, ...],
    named: list[Cause],
    inquiry: Inquiry,
) -> tuple[list[Cause], Inquiry]:
    """Weights that are not the checkpoint's: put them back, and look at what is left."""
    every = list(inquest.found.captures["ref"].weights)
    kind = kind_of_change(tensors, every, bool(inquest.config.get("tie_word_embeddings")))
    cause = cause_of_weights(charge, tensors, kind, 0.85)
    if inquiry.done:  # too small an effect to see it go, but the weights are others
        return [*named, cause], inquiry
    side = side_of(inquest.run, charge.suspect)
    repair = resync(side, tensors)
    after = inquest.trials.rescore(repair.label, repair.spec, charge.suspect)
    if after is None:
        return [cause, *named], inquiry
    left = error_of(after, charge.sound)
    cause = confirmed_by(cause, f"{charge.suspect} with {repair.label}", charge.error_nats, left)
    if left >= charge.error_nats:
        return [*named, cause.model_copy(update={"confidence": 0.3})], inquiry
    cause = cause.model_copy(update={"confidence": 0.95})
    if left <= charge.noise_nats:
        return [cause], inquiry
    rest = inquest.search(inquest.repaired(charge, after, left))
    found = [c for c in named_causes(rest, inquest.found.localisation) if c.id != cause.id]
    return [cause, *found], rest
