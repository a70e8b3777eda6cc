"""Tokens that were not drawn from the distribution that is reported: what paired log-probs hide.

An engine that returns raw log-probs and samples with penalties or from a nucleus agrees with the
trainer on every token, and is another policy all the same. Which tokens it drew shows it. Each
supposition about how it sampled gives them a likelihood; the likeliest is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np

from mismatch_lab.attribution.build_cause import build_cause
from mismatch_lab.attribution.clues import Clues
from mismatch_lab.attribution.hypotheses import Hypothesis, RowChange, Search
from mismatch_lab.attribution.predictions import semantics
from mismatch_lab.attribution.row_changes import ROW_CHANGES, Distributions, distributions_of
from mismatch_lab.captures.capture import Capture
from mismatch_lab.measures.calibration import Calibration, calibration
from mismatch_lab.plan import WHOLE_ROWS
from mismatch_lab.schema import Cause, Confirmation, Observation, Sampling

OVERWHELMING = 6.0
"""|z| from which on chance is no explanation, whatever is: 2e-9 for one run."""

SUSPICIOUS, LARGE = 2.0, 5_000_000
"""|z| from which on suppositions are tried where that takes long: among so many log-probs. A
penalty may leave z alone."""

CERTAIN = 14.0
"""Nats of log-likelihood that a supposition must gain over the report. Of a true report, one
fixed supposition gains so much with a probability of at most exp(-14), and 50 are tried."""

AS_LIKELY = 2.0
"""Suppositions within so many nats of the best are not told apart."""

NEVER_DRAWN = "never_drawn"
LOG_2 = float(np.log(2))
SHARPER = (0.3, 0.5, 0.7, 0.8, 0.9, 1.1, 1.25, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class _Gain:
    cause: str
    label: str
    nats: float


def reported_rows(captures: Mapping[str, Capture]) -> Capture:
    """Distributions that agree with what the engine reports: the reference's, of which there are
    more, or its own re-scoring's.
    """
    return captures.get(WHOLE_ROWS, captures["prefill"])


@dataclass(frozen=True)
class Misreport:
    """What disproves the report of an engine that samples."""

    test: Calibration
    gains: list[_Gain]
    """Suppositions that are clearly likelier than the report, the likeliest first."""


def misreported(decode: Capture, report: Capture, sampling: Sampling) -> Misreport | None:
    """What speaks against the report; None where nothing does, or where there are no
    distributions beside sampled tokens.

    Args:
        decode: what was sampled.
        report: distributions that agree with the engine's log-probs.
        sampling: as it was asked for.
    """
    if report.probe_logp is None:
        return None
    probes = np.flatnonzero(decode.rows.sampled[report.probe_positions])
    if not len(probes):
        return None
    sound = distributions_of(report, probes, sampling.temperature)
    drawn = sound.logp[np.arange(len(probes)), sound.drawn]
    test = calibration(drawn, sound.logp)
    quiet = abs(test.z) < SUSPICIOUS and not test.n_impossible
    if quiet and sound.logp.size > LARGE:
        return None
    gains = sorted(_gains(sound, sampling), key=lambda gain: -gain.nats)
    sure = [gain for gain in gains if gain.nats >= CERTAIN]
    disproved = sure or abs(test.z) >= OVERWHELMING or test.n_impossible
    return Misreport(test, sure) if disproved else None


def sampled_otherwise(decode: Capture, report: Capture, sampling: Sampling) -> list[Cause]:
    """How the engine sampled, where it was not from what it reports; ties where nothing decides."""
    found = misreported(decode, report, sampling)
    if found is None or not found.gains:
        return []
    likely: dict[str, _Gain] = {}
    for gain in found.gains:
        if gain.nats >= found.gains[0].nats - AS_LIKELY:
            likely.setdefault(gain.cause, gain)
    return [_cause(gain, found.test, 0.9 / len(likely)) for gain in likely.values()]


def _gains(sound: Distributions, sampling: Sampling) -> Iterator[_Gain]:
    """Log-likelihood of the drawn tokens under each supposition, less that under the report."""
    clues = Clues("decode", {}, sampling)
    temperature = Hypothesis(
        "raw-logprobs-temperature",
        "logits times a constant while sampling, and not in what is reported",
        rows=(RowChange("scale"),),
        search=Search(SHARPER, "no"),
    )
    at = np.arange(len(sound.drawn)), sound.drawn
    reported = sound.logp[at].sum()
    for hypothesis in chain(semantics.truncation(clues), semantics.penalties(clues), [temperature]):
        change = hypothesis.rows[-1]
        for value in hypothesis.search.grid if hypothesis.search else (change.value,):
            nats = float(ROW_CHANGES[change.name](sound, value)[at].sum() - reported)
            if change.name == NEVER_DRAWN:
                # Chosen by what was drawn: one of so many sets of tokens that might have been.
                nats -= LOG_2 * float((np.exp(sound.logp).sum(axis=0) >= value).sum())
            yield _Gain(hypothesis.cause, f"{hypothesis.label} ({value:g})", nats)


def _cause(gain: _Gain, test: Calibration, confidence: float) -> Cause:
    evidence = [
        Observation(
            observation=f"z of the log-probs of {test.n} sampled tokens against their entropy",
            value=test.z,
            expected="between -3 and 3 where tokens come from what is reported",
        ),
        Observation(
            observation=f"log-likelihood of the drawn tokens gained by: {gain.label}, in nats",
            value=gain.nats,
            expected="below 0",
        ),
    ]
    confirmation = Confirmation(
        experiment=f"drawn tokens under sampling supposed so ({gain.label}) against the report, "
        "negative log-likelihood in nats beyond it",
        before=gain.nats,
        after=0.0,
    )
    why = (
        "Log-probs agree, and the tokens are not drawn from them: they are likeliest if the "
        f"engine samples so: {gain.label}."
    )
    tied = "" if confidence == 0.9 else "Sample more tokens, or without the suspected setting."
    return build_cause(gain.cause, "infer", confidence, why, evidence, [confirmation], decides=tied)
