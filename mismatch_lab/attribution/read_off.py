"""What captures show of a suspect by themselves, before anything is simulated for it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from mismatch_lab.attribution.candidates import NOTHING, Found
from mismatch_lab.attribution.confirm import confirmed
from mismatch_lab.attribution.context import Context
from mismatch_lab.attribution.explain import expected_with
from mismatch_lab.attribution.hypotheses import Explanation
from mismatch_lab.attribution.naming import cause_observed, constants_of
from mismatch_lab.attribution.observed_causes import misread_cause
from mismatch_lab.attribution.sampled_otherwise import reported_nats, sampled_otherwise
from mismatch_lab.attribution.self_disagreement import (
    TRAINING,
    Disagreement,
    in_training_mode,
    own_cause,
)
from mismatch_lab.attribution.suspects import SUSPECTS, Suspect, noise_of, suspect_of
from mismatch_lab.attribution.thresholds import THRESHOLDS
from mismatch_lab.attribution.updates import old_tensors, outlived
from mismatch_lab.captures.capture import Capture
from mismatch_lab.schema import Cause


@dataclass(frozen=True)
class Known:
    """What is known of the engine's re-scoring, which its sampling shares."""

    defects: Explanation = ()
    explained: bool = True
    """Whether they leave nothing but noise of its error."""


@dataclass(frozen=True)
class Reading:
    """One suspect before its simulations."""

    suspect: Suspect
    """Held against what a program with the known defects says."""
    known: Known = Known(explained=False)
    own_capture: Capture | None = None
    """The suspect's own sound capture, where it is not held against the reference."""
    found: Found = NOTHING
    settled: bool = False
    """Whether nothing is left to be simulated."""


def read_off(
    context: Context, suspect: Suspect, known: Known, own: Sequence[Disagreement]
) -> Reading:
    """What captures show of one suspect.

    Args:
        context: the run.
        suspect: the suspect.
        known: of the engine's re-scoring.
        own: contradictions of the trainer with itself.
    """
    if suspect.name == "decode":
        return _sampling(context, suspect, known)
    reading = Reading(suspect)
    if suspect.name == "infer":
        reading = _since_update(context, suspect)
    if reading.settled or context.measured.weights.get(suspect.name):
        return reading
    misread = misread_cause(reading.suspect, context.measured.captures)
    if misread is None:
        return reading
    # No change to the model can be told beside that, only whether it contradicts itself.
    mine = [o for o in own if o.against != TRAINING and suspect.name == "train"]
    causes = [cause_observed(reading.suspect, misread)]
    causes += [own_cause(o, context.measured.localisation) for o in mine]
    found = replace(reading.found, candidates=(*reading.found.candidates, *causes))
    return Reading(reading.suspect, found=found, settled=True)


def _since_update(context: Context, suspect: Suspect) -> Reading:
    """What an update left old, taken out of the error; settled where that was all there was."""
    found, noise_nats = context.measured, suspect.noise_nats
    old, defects = old_tensors(
        context.run, found.captures, found.localisation, context.simulator, noise_nats
    )
    tried = confirmed(context, suspect, old)
    if defects:
        suspect = expected_with(context.simulator, defects, suspect, context.temperature)
    before = max((c.before for cause in old for c in cause.confirmed_by), default=0.0)
    settled = bool(old) and suspect.error_nats <= max(noise_nats, THRESHOLDS.mixture_share * before)
    known = Known(defects, suspect.error_nats <= noise_nats)
    return Reading(suspect, known, found=tried, settled=settled)


def _sampling(context: Context, suspect: Suspect, known: Known) -> Reading:
    """The engine's sampling against its own re-scoring."""
    measured = context.measured
    if context.run.infer.weights_before is not None and measured.decode_manifest is not None:
        causes = outlived(measured.captures, measured.decode_manifest, suspect.noise_nats)
        if causes:
            return Reading(suspect, found=Found(tuple(causes)), settled=True)
    if not known.explained:
        return Reading(suspect, own_capture=measured.captures["prefill"])
    suspect = expected_with(context.simulator, known.defects, suspect, context.temperature)
    return Reading(suspect, known)


def beside(
    context: Context,
    causes: Collection[Cause],
    own: Sequence[Disagreement],
    judged: Collection[str],
) -> list[Cause]:
    """What shows in no suspect's average error: training mode, single tokens, what was drawn.

    Args:
        context: the run.
        causes: named so far, of all suspects.
        own: contradictions of the trainer with itself.
        judged: names of the suspects that were looked into.
    """
    captures, drawn = context.measured.captures, context.measured.drawn
    found = in_training_mode(context, own, {cause.id for cause in causes})
    noise_nats = noise_of(context.measured.floor, context.run.probe.limits)
    for suspect in SUSPECTS:
        if suspect not in judged:
            # Constants among the log-probs count even where they move no average.
            one = suspect_of(suspect, captures, noise_nats)
            found += constants_of(one, captures["decode"].rows)
    engine = {cause.id for cause in (*causes, *found) if cause.side == "infer"}
    return found + sampled_otherwise(drawn, reported_nats(captures), engine)
