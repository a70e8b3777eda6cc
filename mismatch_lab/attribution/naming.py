"""From what a search found to causes with evidence, for people and machines."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mismatch_lab.attribution.build_cause import Side, build_cause
from mismatch_lab.attribution.causes import load_cause
from mismatch_lab.attribution.fit import Fit
from mismatch_lab.attribution.hypotheses import Hypothesis
from mismatch_lab.attribution.investigate import Inquiry
from mismatch_lab.attribution.observed_causes import Observed
from mismatch_lab.attribution.profile import position_profile
from mismatch_lab.attribution.self_disagreement import Disagreement
from mismatch_lab.attribution.suspects import Charge
from mismatch_lab.attribution.token_patterns import TokenPattern, token_patterns
from mismatch_lab.attribution.unlisted import contradicted
from mismatch_lab.attribution.value_grid import ValueGrid
from mismatch_lab.captures.capture import Rows
from mismatch_lab.schema import (
    Cause,
    Confirmation,
    Localisation,
    Observation,
    RuledOut,
)

SIDE: dict[str, Side] = {"decode": "infer", "infer": "infer", "train": "train"}

NAMED = 0.28
"""An explanation that removes less of the error than this names nothing."""

SHOWN_RULED_OUT = 8

RULED_OUT = 0.5
"""A hypothesis is ruled out that removes at most this share of what the best one removes: what
comes nearer may be a part of it, or the same thing in other words."""


def named_causes(inquiry: Inquiry, localisation: Localisation | None) -> list[Cause]:
    """Causes of one suspect that its single tokens and the search name, the surest first.

    Args:
        inquiry: what the investigation found.
        localisation: where modules diverge, if that was recorded.
    """
    causes = [_of_pattern(inquiry, pattern) for pattern in inquiry.patterns]
    fits = [fit for fit in (inquiry.pursuit.best, *inquiry.pursuit.ties) if fit is not None]
    good = [fit for fit in fits if fit.explained >= NAMED]
    good = [fit for fit in good if not contradicted(fit, inquiry.charge, localisation)]
    if good:
        best, *ties = good
        share = 1.0 / (1 + len(ties))
        certain = _in_all([best, *ties])
        for found in (best, *ties):
            causes += [
                _of_hypothesis(
                    inquiry, found, h, localisation, 1.0 if h.cause in certain else share
                )
                for h in found.explanation
                if found is best or h.cause not in certain
            ]
    return causes


def _in_all(ties: list[Fit]) -> set[str]:
    """Causes that every explanation needs: there is no doubt about those."""
    return set.intersection(*({h.cause for h in fit.explanation} for fit in ties))


def cause_of_weights(
    charge: Charge, tensors: tuple[str, ...], kind: tuple[str, str], confidence: float
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
    side, location = SIDE[charge.suspect], min(tensors, key=lambda name: name.startswith("lm_head"))
    if kind[0] == "weight-quantisation":
        location = tensors[0].rpartition(".")[0]
    return build_cause(kind[0], side, confidence, kind[1], evidence, location=location)


def cause_of_grid(charge: Charge, grid: ValueGrid, left_nats: float) -> Cause:
    """Log-probs that come in a coarse format."""
    evidence = [
        Observation(
            observation=f"share of {grid.n} log-probs that this format holds exactly: "
            f"{grid.hypothesis.label}",
            value=grid.share,
            expected="near 0 for float32 values",
        )
    ]
    confirmation = Confirmation(
        experiment="the sound log-probs rounded so, against the suspect, mean |delta| in nats",
        before=charge.error_nats,
        after=left_nats,
        by="record",
    )
    why = f"Every value is one that this format can hold: {grid.hypothesis.label}."
    side = SIDE[charge.suspect]
    return build_cause("logprob-precision", side, 0.97, why, evidence, [confirmation])


def cause_observed(charge: Charge, found: Observed) -> Cause:
    """A cause that the recorded data show by themselves."""
    side = SIDE[charge.suspect]
    return build_cause(
        found.cause, side, found.confidence, found.why, found.evidence, location=found.location
    )


def _of_hypothesis(
    inquiry: Inquiry,
    found: Fit,
    hypothesis: Hypothesis,
    localisation: Localisation | None,
    share: float,
) -> Cause:
    charge = inquiry.charge
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
        *position_profile(charge),
    ]
    confirmations = []
    if found.unseen is not None:
        confirmations.append(
            Confirmation(
                experiment=f"{found.unseen.rows} rows that the search had not seen: reference with "
                f"this defect ({label}){together} against the suspect, mean |delta| in nats",
                before=found.unseen.sound_nats,
                after=found.unseen.residual_nats,
                by="unseen rows",
            )
        )
    tied = share < 1
    decides = load_cause(hypothesis.cause).confirmation if tied else ""
    return build_cause(
        hypothesis.cause,
        SIDE[charge.suspect],
        share * _confidence(inquiry, found),
        f"The suspect says what the reference says with this defect: {label}.",
        evidence,
        confirmations,
        _location(hypothesis, localisation, SIDE[charge.suspect]),
        decides,
    )


def _confidence(inquiry: Inquiry, found: Fit) -> float:
    """Down to the noise: sure. Otherwise as sure as much of the error is gone."""
    if found.residual_nats <= inquiry.charge.noise_nats:
        return 0.98
    return min(0.95, 0.2 + 0.8 * found.explained)


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


def constants_of(charge: Charge, rows: Rows) -> list[Cause]:
    """Causes in single tokens alone, of a side that nothing else speaks against."""
    patterns = token_patterns(charge.observed, charge.sound, rows, charge.noise_nats)
    inquiry = Inquiry(charge, patterns, left_nats=charge.noise_nats)
    return [_of_pattern(inquiry, pattern) for pattern in patterns]


def _of_pattern(inquiry: Inquiry, pattern: TokenPattern) -> Cause:
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
        before=inquiry.charge.error_nats,
        after=inquiry.left_nats,
        by="record",
    )
    why = f"{count} tokens carry {what}{shown} whatever the model says of them."
    side = SIDE[inquiry.charge.suspect]
    return build_cause(pattern.cause, side, 0.95, why, evidence, [confirmation])


def fallback_decode(inquiry: Inquiry, updated: bool, sound_engine: bool) -> list[Cause]:
    """Sampling that is wrong, and nothing more is known; after an update of the weights, a tie.

    An engine that re-scores wrongly as well may do so for the same reason: little is said then.
    """
    evidence = [
        Observation(
            observation="sampling against re-scoring of the same tokens, mean |delta| in nats",
            value=inquiry.charge.error_nats,
            expected=f"at most {inquiry.charge.noise_nats:.2g}",
        ),
        *position_profile(inquiry.charge),
    ]
    known = "The engine's sampling disagrees with its own re-scoring, nothing simulated explains it"
    plain = "decode-prefill-divergence"
    if not updated:
        confidence = 0.6 if sound_engine else 0.3
        return [build_cause(plain, "infer", confidence, f"{known}.", evidence)]
    why = f"{known}; the weights were updated, and keys and values of before may remain."
    decides = load_cause("stale-prefix-cache").confirmation
    return [
        build_cause(cause, "infer", 0.5, why, evidence, decides=decides)
        for cause in ("stale-prefix-cache", plain)
    ]


def own_cause(own: Disagreement, localisation: Localisation | None) -> Cause:
    """The cause of a trainer that contradicts itself; without a place of its own, where the
    trainer's modules leave their floor first.
    """
    location = own.location
    if location is None and localisation is not None and localisation.side == "train":
        location = localisation.first_divergent_module
    why = (
        f"The trainer disagrees with itself ({own.against.replace('_', ' ')}), whatever the "
        "engine says."
    )
    return build_cause(own.cause, "train", 0.9, why, own.evidence, location=location)


def ruled_out(inquiry: Inquiry, named: Iterable[str]) -> list[RuledOut]:
    """Hypotheses that were tried and explain little, those that came nearest first; and those whose
    cause cannot be as large as its simulation was.
    """
    kept = set(named)
    too_large = [
        RuledOut(
            id=cause,
            because=f"simulated, moves log-probs by {nats:.2g} nats: this cause moves them by "
            f"{load_cause(cause).largest_nats:.2g} at most",
        )
        for cause, nats in inquiry.pursuit.implausible.items()
        if cause not in kept and cause not in inquiry.pursuit.tried
    ]
    return (
        too_large
        + [
            RuledOut(
                id=cause,
                because=f"simulated ({found.explanation[0].label}): removes "
                f"{max(found.explained, 0.0):.0%} of the error",
            )
            for cause, found in _by_share(inquiry)
            if cause not in kept and found.explained <= _ruled_out_up_to(inquiry)
        ][:SHOWN_RULED_OUT]
    )


def not_ruled_out(inquiry: Inquiry, named: Iterable[str]) -> str | None:
    """What explains too much by itself to be ruled out and is not named, in a sentence."""
    kept = set(named)
    open_ones = [
        f"{cause} ({found.explained:.0%})"
        for cause, found in _by_share(inquiry)
        if cause not in kept and found.explained > _ruled_out_up_to(inquiry)
    ]
    if not open_ones:
        return None
    return (
        f"Not ruled out for the {inquiry.charge.suspect}, by the share of its error that each "
        f"removes alone: {', '.join(open_ones)}."
    )


def _by_share(inquiry: Inquiry) -> list[tuple[str, Fit]]:
    return sorted(inquiry.pursuit.tried.items(), key=lambda item: -item[1].explained)


def _ruled_out_up_to(inquiry: Inquiry) -> float:
    """Share of the error: where nothing was found, that of an explanation that is named; else half
    of what is explained.
    """
    best = inquiry.pursuit.best
    return NAMED if best is None else max(0.0, RULED_OUT * best.explained)


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
