"""What may be behind a difference that goes one way only, where there is no reference to decide.

Of an engine that reports what it samples from, the mean ratio is 1, whatever the trainer says:
where the trainer is below at some tokens it is above at others (sum of p_infer * ratio = 1). A
ratio that is never above 1 says that the engine's log-probs are normalised over less than the
trainer's, or are not those of the sampled tokens.
"""

from __future__ import annotations

import numpy as np

from mismatch_lab.attribution.candidates import build_cause
from mismatch_lab.attribution.thresholds import CONFIDENCE, THRESHOLDS
from mismatch_lab.captures.align import align
from mismatch_lab.captures.capture import Capture
from mismatch_lab.measures.stats import mean_estimate
from mismatch_lab.schema import Cause, Observation, Sampling

DECIDES = (
    "mismatch-lab diagnose CHECKPOINT --captures …: the reference's distributions tell them apart."
)


def one_sided_causes(
    infer: Capture, train: Capture, sampling: Sampling | None = None
) -> list[Cause]:
    """Causes that are possible where the engine's log-probs are never below the trainer's; tied.

    Args:
        infer: what the engine says.
        train: what the trainer says of the same tokens.
        sampling: of the engine, where it is known.
    """
    pairs = align(infer, train)
    delta = pairs.logp_b.astype(np.float64) - pairs.logp_a
    finite = np.isfinite(delta)
    # exp(d) - 1 is at least d: the bound is exceeded for certain where the deltas exceed it.
    up, down = (float(np.maximum(way, 0).sum(where=finite)) for way in (delta, -delta))
    if up > THRESHOLDS.other_way_share * down:
        return []
    ratio = np.exp(np.minimum(delta[finite], 50.0))
    above, below = np.maximum(ratio - 1, 0).sum(), np.maximum(1 - ratio, 0).sum()
    if above > THRESHOLDS.other_way_share * below or below == 0:
        return []
    mean = mean_estimate(ratio, pairs.row_ids[finite])
    if not mean.ci95_high < 1:
        return []
    evidence = [
        Observation(
            observation="mean ratio of the trainer's probability to the engine's",
            value=mean.value,
            expected="1 if the engine reports what it samples from; the kept mass if it is cut",
        ),
        Observation(
            observation="what ratios above 1 exceed it by, over what those below fall short by",
            value=float(above / below),
            expected="about 1 where both are whole distributions",
        ),
        Observation(
            observation="lowest delta in nats",
            value=float(delta[finite].min()),
            expected=_lowest(sampling),
        ),
    ]
    why = (
        "The engine's log-probs are hardly ever below the trainer's, as of an engine that "
        "normalises over fewer tokens, or reports another token's."
    )
    ids = ["sampler-truncation", "partial-normaliser"]
    # Two different tokens of one distribution have probability 1 together at most.
    together = np.exp(pairs.logp_a[finite]) + np.exp(pairs.logp_b[finite])
    clear = delta[finite] < -THRESHOLDS.two_tokens_nats
    if not (clear & (together > THRESHOLDS.two_tokens_probability)).any():
        ids.append("wrong-candidate")
    return [
        build_cause(id, "infer", CONFIDENCE.one_sided, why, evidence, decides=DECIDES) for id in ids
    ]


def _lowest(sampling: Sampling | None) -> str:
    if sampling is None or sampling.top_p >= 1:
        return "the log of the smallest kept mass, if it is cut"
    return f"{np.log(sampling.top_p):.3g} or more, if it is top-p of {sampling.top_p:g}"
