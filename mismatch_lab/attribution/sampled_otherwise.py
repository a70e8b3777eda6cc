"""Tokens that were not drawn from the distributions that are reported: what log-probs hide.

An engine that returns raw log-probs and samples with penalties or from a nucleus agrees with the
trainer on every token, and is another policy all the same. Which tokens it drew shows it: they are
likelier under the supposition that holds (`findings/drawn.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from mismatch_lab.attribution.candidates import build_cause
from mismatch_lab.attribution.thresholds import CONFIDENCE, THRESHOLDS
from mismatch_lab.captures.capture import Capture
from mismatch_lab.findings.drawn import disproved, in_words
from mismatch_lab.measures.suppositions import NEVER_DRAWN
from mismatch_lab.schema import (
    Cause,
    Confirmation,
    DrawnFindings,
    Manifest,
    Observation,
    Sampling,
    SuppositionRecord,
)

CAUSES = {
    "temperature": "raw-logprobs-temperature",
    "top_p": "sampler-truncation",
    "top_k": "sampler-truncation",
    "min_p": "sampler-truncation",
    "repetition_penalty": "sampling-penalties",
    "presence_penalty": "sampling-penalties",
    "frequency_penalty": "sampling-penalties",
    NEVER_DRAWN: "sampler-truncation",
}
"""Family of suppositions -> the cause that it is of."""


def reported_nats(captures: Mapping[str, Capture]) -> float:
    """What the drawn tokens gain under the log-probs that the engine reports while sampling, over
    its own re-scoring: above 0 where it samples, and says so, with a defect of its sampling.
    """
    decode, prefill = captures.get("decode"), captures.get("prefill")
    if decode is None or prefill is None:
        return 0.0
    gain = (decode.logp.astype(np.float64) - prefill.logp)[decode.rows.sampled]
    return float(gain[np.isfinite(gain)].sum())


def sampled_otherwise(
    drawn: DrawnFindings | None, reported: float = 0.0, named: Collection[str] = ()
) -> list[Cause]:
    """How the engine sampled, where it was not from what it reports; ties where nothing decides.

    Args:
        drawn: what the drawn tokens tell.
        reported: `reported_nats`. A supposition must beat it: an engine whose sampling is wrong and
            reported as it is draws from what it reports.
        named: causes of the engine that are known already, and explain what they would here.
    """
    if drawn is None or not disproved(drawn):
        return []
    best = max(s.gain_nats for s in drawn.suppositions)
    worth = best - max(reported, 0.0)
    if (
        worth < drawn.gain_limit_nats
        and not worth >= THRESHOLDS.supposition_gain_share * drawn.z**2 / 2
    ):
        return []
    likely: dict[str, SuppositionRecord] = {}
    for supposition in sorted(drawn.suppositions, key=lambda s: -s.gain_nats):
        if supposition.gain_nats >= best - THRESHOLDS.as_likely_nats:
            likely.setdefault(CAUSES[supposition.name], supposition)
    if not likely.keys().isdisjoint(named):
        return []
    return [
        _cause(cause, s, drawn, CONFIDENCE.drawn_otherwise / len(likely))
        for cause, s in likely.items()
    ]


def asked_for(sampling: Sampling) -> set[str]:
    """Causes that the request itself brings about: whatever log-probs say, none is ruled out."""
    return {"sampler-truncation"} if sampling.top_p < 1 else set()


def _cause(
    cause: str, supposition: SuppositionRecord, drawn: DrawnFindings, confidence: float
) -> Cause:
    label, gain = in_words(supposition), supposition.gain_nats
    evidence = [
        Observation(
            observation=f"z of the log-probs of {drawn.n} sampled tokens against their entropy",
            value=drawn.z,
            expected="between -3 and 3 where tokens come from what is reported",
        ),
        Observation(
            observation=f"log-likelihood of the drawn tokens gained by {label}, in nats",
            value=gain,
            expected="below 0",
        ),
    ]
    confirmed = []
    if supposition.held_out_nats >= THRESHOLDS.held_out_gain_nats:
        experiment = (
            "negative log-likelihood of the drawn tokens in every second row, in nats beyond that "
            "under a number that was chosen in the other rows"
        )
        confirmed = [
            Confirmation(experiment=experiment, before=supposition.held_out_nats, after=0.0)
        ]
    why = (
        "The tokens are not drawn from the log-probs that go with them: they are likeliest if the "
        f"engine samples with {label}."
    )
    tied = (
        ""
        if confidence == CONFIDENCE.drawn_otherwise
        else "Sample more tokens, or without the suspected setting."
    )
    return build_cause(cause, "infer", confidence, why, evidence, confirmed, decides=tied)


INHERITS = "inherits."
"""Options of a server's capture: what it applies by itself -> share of tokens that it changes."""


def own_settings(manifest: Manifest) -> dict[str, float]:
    """Setting -> share of tokens of a fixed seed that it changed; only those of known causes."""
    said = {n.removeprefix(INHERITS): v for n, v in manifest.options.items() if INHERITS in n}
    return {n: v for n, v in said.items() if n in CAUSES and isinstance(v, float) and v > 0}


def inherited(settings: dict[str, float]) -> str:
    """What tokens are sampled with that nobody asked for, in words; empty where it is nothing."""
    if not settings:
        return ""
    words = ", ".join(map(_words, settings))
    return (
        f"The server samples with settings of its own ({words}) that a trainer's requests do not "
        "name and log-probs need not show."
    )


def causes_of(settings: dict[str, float], named: set[str]) -> list[Cause]:
    """The causes that are not named already."""
    causes: dict[str, list[str]] = {}
    for name in settings:
        causes.setdefault(CAUSES[name], []).append(name)
    return [_server_cause(c, {n: settings[n] for n in names}) for c, names in causes.items()
            if c not in named]  # fmt: skip


def _server_cause(cause: str, settings: dict[str, float]) -> Cause:
    words = " and ".join(map(_words, settings))
    evidence = [
        Observation(
            observation=f"share of tokens that change under one seed where {_words(name)} is said "
            "to be none",
            value=share,
            expected="0 where the server has no such setting",
        )
        for name, share in settings.items()
    ]
    experiment = "share of tokens that differ from plain sampling, without and with it said"
    confirmed = [Confirmation(experiment=experiment, before=max(settings.values()), after=0.0)]
    why = (
        f"Log-probs agree, and the server draws with {words} of its own: asked with one seed, it "
        "draws other tokens as soon as the request says that there is none."
    )
    return build_cause(cause, "infer", CONFIDENCE.server_default, why, evidence, confirmed)


def _words(name: str) -> str:
    return f"a {name.replace('_', ' ')}" if "penalty" in name else name.replace("_", "-")
