"""From what was simulated to candidates, by experiments on the real side."""

from __future__ import annotations

from collections.abc import Sequence

from mismatch_lab.attribution.candidates import Found, confirmed_by, joined
from mismatch_lab.attribution.confirm import tested
from mismatch_lab.attribution.context import Context, where_simulated
from mismatch_lab.attribution.explain import Simulated, simulate
from mismatch_lab.attribution.free_tensor import free_tensor
from mismatch_lab.attribution.naming import (
    cause_observed,
    cause_of_weights,
    fallback_decode,
    named_causes,
)
from mismatch_lab.attribution.observed_causes import observed_causes
from mismatch_lab.attribution.read_off import Reading
from mismatch_lab.attribution.repairs import error_of, kind_of_change, repaired, resync, unexplained
from mismatch_lab.attribution.self_disagreement import Disagreement, with_own
from mismatch_lab.attribution.suspects import Suspect, side_of
from mismatch_lab.attribution.thresholds import CONFIDENCE, THRESHOLDS
from mismatch_lab.attribution.unlisted import on_whose_side, unlisted_cause
from mismatch_lab.engines.base import BLACK_BOXES
from mismatch_lab.schema import Cause


def experiment(
    context: Context, seen: Reading, simulated: Simulated, own: Sequence[Disagreement]
) -> tuple[Found, Simulated]:
    """Candidates of one suspect, and the simulation that they come from: that of what was left,
    where something was put right on the side first.

    Args:
        context: the run.
        seen: what was read off.
        simulated: what was simulated.
        own: contradictions of the trainer with itself.
    """
    if seen.suspect.name == "decode":
        return _sampling(context, seen, simulated), simulated
    found, simulated = _repaired(context, seen, simulated, own)
    named = _with_unlisted(context, seen.suspect, list(found.candidates), simulated)
    named, note = _with_free_tensor(context, seen.suspect, named, simulated)
    tried = tested(context, seen.suspect, named)
    causes = on_whose_side(list(tried.candidates), seen.suspect, context.measured.reference)
    return Found(tuple(causes), found.formats, tried.ruled_out, (*tried.notes, *note)), simulated


def _sampling(context: Context, seen: Reading, simulated: Simulated) -> Found:
    """The engine's sampling against its own re-scoring."""
    named = named_causes(simulated, context.measured.localisation)
    if not named and not simulated.done:
        updated = context.run.infer.weights_before is not None
        named = fallback_decode(simulated, updated, seen.own_capture is None)
    tried = tested(context, seen.suspect, named)
    return Found(tried.candidates, simulated.formats, tried.ruled_out, tried.notes)


def _repaired(
    context: Context, seen: Reading, simulated: Simulated, own: Sequence[Disagreement]
) -> tuple[Found, Simulated]:
    """What simulation names, once what can be put right at once was: a trainer that contradicts
    itself, weights that are not the checkpoint's.
    """
    named = named_causes(simulated, where_simulated(context.measured, seen.suspect.name))
    formats = simulated.formats
    if seen.suspect.name == "train":
        itself = with_own(context, named, simulated, own)
        named, formats = list(itself.candidates), (*formats, *itself.formats)
    tensors = context.measured.weights.get(seen.suspect.name, ())
    left = unexplained(tensors, {cause.id for cause in named})
    if not left:
        return Found(
            tuple(_with_observed(context, seen.suspect, named, simulated)), formats
        ), simulated
    named, rest = _weights(context, seen.suspect, left, named, simulated)
    more = () if rest is simulated else rest.formats
    return Found(tuple(named), (*formats, *more)), rest


def _with_observed(
    context: Context, suspect: Suspect, named: list[Cause], simulated: Simulated
) -> list[Cause]:
    """Where nothing is sure, with what routers and modules show by themselves."""
    if (simulated.done and named) or any(
        cause.confidence > THRESHOLDS.mostly_explained for cause in named
    ):
        return named
    measured = context.measured
    weights_equal = not measured.weights.get(suspect.name)
    seen = observed_causes(suspect, measured.captures, measured.localisation, weights_equal)
    return joined([cause_observed(suspect, o) for o in seen] + named)


def _with_unlisted(
    context: Context, suspect: Suspect, named: list[Cause], simulated: Simulated
) -> list[Cause]:
    """Where nothing convinces, with the first wrong module as a cause of its own."""
    if simulated.done or any(cause.confidence > CONFIDENCE.unlisted for cause in named):
        return named
    measured = context.measured
    unknown = unlisted_cause(suspect, measured.captures, measured.localisation, context.config)
    return named if unknown is None else [unknown, *named]


def _with_free_tensor(
    context: Context, suspect: Suspect, named: list[Cause], simulated: Simulated
) -> tuple[list[Cause], tuple[str, ...]]:
    """Where nothing convinces and the engine shows neither tensors nor modules, with the tensor
    that explains it by itself.
    """
    black_box = suspect.name == "infer" and context.run.infer.engine in BLACK_BOXES
    sure = any(cause.confidence > CONFIDENCE.unlisted for cause in named)
    if not black_box or simulated.done or sure:
        return named, ()
    cause, note = free_tensor(context, suspect)
    return ([] if cause is None else [cause]) + named, (note,) if note else ()


def _weights(
    context: Context,
    suspect: Suspect,
    tensors: tuple[str, ...],
    named: list[Cause],
    simulated: Simulated,
) -> tuple[list[Cause], Simulated]:
    """Weights that are not the checkpoint's: put them back, and look at what is left."""
    every = list(context.measured.captures["ref"].weights)
    kind = kind_of_change(tensors, every, bool(context.config.get("tie_word_embeddings")))
    cause = cause_of_weights(suspect, tensors, kind, CONFIDENCE.weights_unlike)
    if simulated.done:  # too small an effect to see it go, but the weights are others
        return [*named, cause], simulated
    side = side_of(context.run, suspect.name)
    repair = resync(side, tensors)
    after = context.trials.rescore(repair.label, repair.spec, suspect.name)
    if after is None:
        return [cause, *named], simulated
    left = error_of(after, suspect.expected)
    cause = confirmed_by(cause, f"{suspect.name} with {repair.label}", suspect.error_nats, left)
    if left >= suspect.error_nats:
        return [
            *named,
            cause.model_copy(update={"confidence": CONFIDENCE.weights_effect_stayed}),
        ], simulated
    cause = cause.model_copy(update={"confidence": CONFIDENCE.weights_loaded_again})
    if left <= suspect.noise_nats:
        return [cause], simulated
    rest = simulate(context, repaired(suspect, after, left))
    where = where_simulated(context.measured, suspect.name)
    found = [c for c in named_causes(rest, where) if c.id != cause.id]
    return [cause, *found], rest
