"""From what a search found to causes with evidence, for people and machines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mismatch_lab.attribution.candidates import build_cause, position_profile
from mismatch_lab.attribution.causes import load_cause
from mismatch_lab.attribution.explain import Simulated
from mismatch_lab.attribution.fit import Fit
from mismatch_lab.attribution.hypotheses import Hypothesis
from mismatch_lab.attribution.observed_causes import Observed
from mismatch_lab.attribution.suspects import SIDE, Suspect
from mismatch_lab.attribution.thresholds import CONFIDENCE, THRESHOLDS
from mismatch_lab.attribution.token_patterns import TokenPattern, token_patterns
from mismatch_lab.attribution.unlisted import contradicted
from mismatch_lab.captures.capture import Rows
from mismatch_lab.schema import (
    Cause,
    Confirmation,
    Localisation,
    Observation,
)


def named_causes(simulated: Simulated, localisation: Localisation | None) -> list[Cause]:
    """Causes of one suspect that its single tokens and the search name, the surest first.

    Args:
        simulated: what simulation found.
        localisation: where modules diverge, if that was recorded.
    """
    causes = [_of_pattern(simulated, pattern) for pattern in simulated.patterns]
    fits = [fit for fit in (simulated.outcome.best, *simulated.outcome.ties) if fit is not None]
    good = [fit for fit in fits if fit.explained >= THRESHOLDS.named_explained]
    good = [fit for fit in good if not contradicted(fit, simulated.suspect, localisation)]
    if good:
        best, *ties = good
        share = 1.0 / (1 + len(ties))
        certain = _in_all([best, *ties])
        for found in (best, *ties):
            causes += [
                one
                for h in found.explanation
                if found is best or h.cause not in certain
                for one in _with_the_same(
                    simulated, found, h, localisation, 1.0 if h.cause in certain else share
                )
            ]
    return causes


def _in_all(ties: list[Fit]) -> set[str]:
    """Causes that every explanation needs: there is no doubt about those."""
    return set.intersection(*({h.cause for h in fit.explanation} for fit in ties))


def cause_of_weights(
    suspect: Suspect, tensors: tuple[str, ...], kind: tuple[str, str], confidence: float
) -> Cause:
    """Weights that are not the checkpoint's."""
    more = f" and {len(tensors) - 4} more" if tensors[4:] else ""
    evidence = [
        Observation(
            observation=f"tensors whose values are not the checkpoint's: "
            f"{', '.join(tensors[:4])}{more}",
            value=len(tensors),
            expected="none",
        )
    ]
    # A head that is tied to the embedding is no tensor of the checkpoint; it runs last in any case.
    side, location = SIDE[suspect.name], min(tensors, key=lambda name: name.startswith("lm_head"))
    if kind[0] == "weight-quantisation":
        location = tensors[0].rpartition(".")[0]
    return build_cause(kind[0], side, confidence, kind[1], evidence, location=location)


def cause_observed(suspect: Suspect, found: Observed) -> Cause:
    """A cause that the recorded data show by themselves."""
    side = SIDE[suspect.name]
    return build_cause(
        found.cause, side, found.confidence, found.why, found.evidence, location=found.location
    )


def _with_the_same(
    simulated: Simulated,
    found: Fit,
    hypothesis: Hypothesis,
    localisation: Localisation | None,
    share: float,
) -> list[Cause]:
    """The hypothesis's cause, in a tie with those that a record cannot tell from it."""
    others = hypothesis.same_in_record
    share /= 1 + len(others)
    alike = [replace(hypothesis, cause=other, of_delivery=False) for other in others]
    return [
        _of_hypothesis(simulated, found, one, localisation, share) for one in (hypothesis, *alike)
    ]


def _of_hypothesis(
    simulated: Simulated,
    found: Fit,
    hypothesis: Hypothesis,
    localisation: Localisation | None,
    share: float,
) -> Cause:
    suspect = simulated.suspect
    value = "" if hypothesis.value is None else f" ({_figure(hypothesis.value)})"
    extent = f", {found.extent}" if found.extent else ""
    label = f"{hypothesis.label}{value}{extent}"
    several = len(found.explanation) > 1
    together = " together with the other cause" if several else ""
    evidence = [
        Observation(
            observation=f"share of the error that goes away{together} when the reference is "
            f"changed so: {label}",
            value=found.explained,
            expected="1 if this is the cause, 0 or less if not",
        ),
        Observation(
            observation="size of the predicted change in the observed one (slope)",
            value=found.slope,
            expected="1 if it is there as predicted",
        ),
        *position_profile(suspect),
    ]
    confirmations = []
    if found.unseen is not None:
        confirmations.append(
            Confirmation(
                experiment=f"{found.unseen.rows} rows that the search had not seen: reference with "
                f"this defect ({label}){together} against the suspect, mean |delta| in nats",
                before=found.unseen.before_nats,
                after=found.unseen.residual_nats,
                by="unseen rows",
            )
        )
    tied = share < 1
    delivery = hypothesis.of_delivery and suspect.name == "infer"
    decides = load_cause(hypothesis.cause).confirmation if tied else ""
    return build_cause(
        hypothesis.cause,
        "sync" if delivery else SIDE[suspect.name],
        share * _confidence(simulated, found),
        f"The suspect says what the reference says with this defect: {label}.",
        evidence,
        confirmations,
        _location(hypothesis, localisation, SIDE[suspect.name]),
        decides,
    )


def _confidence(simulated: Simulated, found: Fit) -> float:
    """Down to the noise: sure. Otherwise as sure as much of the error is gone."""
    if found.residual_nats <= simulated.suspect.noise_nats:
        return CONFIDENCE.down_to_noise
    part = CONFIDENCE.explained_at_least + CONFIDENCE.explained_slope * found.explained
    return min(CONFIDENCE.explained_at_most, part)


def _location(hypothesis: Hypothesis, localisation: Localisation | None, side: str) -> str | None:
    """The hypothesis's own place, unless modules were recorded and agree on a nearer one."""
    if localisation is None or localisation.first_divergent_module is None:
        return hypothesis.location
    first = localisation.first_divergent_module
    if localisation.side != side or hypothesis.location is None or hypothesis.part is None:
        return hypothesis.location
    return (
        first
        if first.endswith(hypothesis.part) or hypothesis.part in first
        else (hypothesis.location)
    )


def constants_of(suspect: Suspect, rows: Rows) -> list[Cause]:
    """Causes in single tokens alone, of a side that nothing else speaks against."""
    patterns = token_patterns(suspect.observed, suspect.expected, rows, suspect.noise_nats)
    simulated = Simulated(suspect, patterns, left_nats=suspect.noise_nats)
    return [_of_pattern(simulated, pattern) for pattern in patterns]


def _of_pattern(simulated: Simulated, pattern: TokenPattern) -> Cause:
    count = int(pattern.tokens.sum())
    what = "exactly one value" if np.isfinite(pattern.value) else "wrong values"
    shown = f" ({_figure(pattern.value)})" if np.isfinite(pattern.value) else ""
    evidence = [
        Observation(observation=f"tokens that carry {what}{shown}", value=count, expected="none"),
        Observation(
            observation="mean |delta| of these tokens, in nats",
            value=pattern.abs_delta_nats,
            expected="that of all others",
        ),
    ]
    confirmation = Confirmation(
        experiment="these tokens left out, mean |delta| of the rest",
        before=simulated.suspect.error_nats,
        after=simulated.left_nats,
        by="record",
    )
    why = f"{count} tokens carry {what}{shown} whatever the model says of them."
    side = SIDE[simulated.suspect.name]
    return build_cause(pattern.cause, side, CONFIDENCE.token_pattern, why, evidence, [confirmation])


def fallback_decode(simulated: Simulated, updated: bool, scoring_explained: bool) -> list[Cause]:
    """Sampling that is wrong, and nothing more is known; after an update of the weights, a tie.

    An engine that re-scores wrongly as well may do so for the same reason: little is said then.
    """
    evidence = [
        Observation(
            observation="sampling against re-scoring of the same tokens, mean |delta| in nats",
            value=simulated.suspect.error_nats,
            expected=f"at most {simulated.suspect.noise_nats:.2g}",
        ),
        *position_profile(simulated.suspect),
    ]
    known = "The engine's sampling disagrees with its own re-scoring, nothing simulated explains it"
    plain = "decode-prefill-divergence"
    if not updated:
        confidence = (
            CONFIDENCE.sampling_unexplained
            if scoring_explained
            else CONFIDENCE.sampling_and_scoring_unexplained
        )
        return [build_cause(plain, "infer", confidence, f"{known}.", evidence)]
    why = f"{known}; the weights were updated, and keys and values of before may remain."
    decides = load_cause("stale-prefix-cache").confirmation
    return [
        build_cause(
            cause, "infer", CONFIDENCE.sampling_after_update, why, evidence, decides=decides
        )
        for cause in ("stale-prefix-cache", plain)
    ]


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
