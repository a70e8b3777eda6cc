"""Causes of sampled tokens without a log-prob: who masks them, or whose record is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.attribution.candidates import build_cause, joined
from mismatch_lab.attribution.thresholds import CONFIDENCE
from mismatch_lab.captures.capture import Capture, Int64
from mismatch_lab.findings.odd_tokens import LOOKED_AT, SIDES, WORDS, in_words, odd_masks
from mismatch_lab.schema import Cause, Confirmation, Measures, Observation, OddKind, OddTokens

CAUSES: dict[OddKind, str] = {
    "missing": "missing-logprobs",
    "impossible": "impossible-token",
    "positive": "partial-normaliser",
}

SURE: dict[OddKind, float] = {
    "missing": CONFIDENCE.missing_record,
    "impossible": CONFIDENCE.missing_record,
    "positive": CONFIDENCE.above_zero,
}
"""Confidence by what was recorded alone. Above 0 shows that a normaliser is too small, not which
part of it is missing: that is simulated."""

AGAIN = {"decode": ("prefill",), "train": ("train_repeat", "train_micro_batch"), "prefill": ()}
"""Captures in which the same program scores the same tokens once more."""

SPANS_SHOWN = 3


def odd_causes(
    odd: Sequence[OddTokens], captures: Mapping[str, Capture], edges: Mapping[str, Measures]
) -> list[Cause]:
    """One cause for each kind and side; a side's later captures add nothing of their own.

    Args:
        odd: what is without a log-prob.
        captures: of the run, by id, as they were recorded.
        edges: measured without these tokens.
    """
    causes: dict[tuple[str, OddKind], Cause] = {}
    for one in odd:
        if (one.side, one.kind) not in causes:
            causes[one.side, one.kind] = _cause(one, captures, edges)
    return list(causes.values())


def with_odd(named: Sequence[Cause], odd: Sequence[Cause]) -> list[Cause]:
    """Causes of tokens without a log-prob beside those of the rest, each once, the surest first.

    That a normaliser is too small is left out where something surer is named on that side.
    """
    causes = list(named)
    for cause in odd:
        same = [c for c in causes if (c.id, c.side) == (cause.id, cause.side)]
        surer = [c for c in causes if c.side == cause.side and c.confidence >= cause.confidence]
        if same:
            at = causes.index(same[0])
            placed = cause.model_copy(update={"location": same[0].location})
            causes[at : at + 1] = joined([placed, same[0]])
        elif cause.confirmed_by or not surer:
            causes.append(cause)
    return sorted(causes, key=lambda cause: -cause.confidence)


def _cause(odd: OddTokens, captures: Mapping[str, Capture], edges: Mapping[str, Measures]) -> Cause:
    side = SIDES[odd.side]
    evidence = [
        Observation(
            observation=f"sampled tokens of {odd.of} that have {WORDS[odd.kind]} in the {side} "
            f"({odd.capture}) alone, of {odd.n_token_ids} different ids",
            value=odd.n,
            expected="none",
        ),
        *_other_side(odd),
    ]
    if odd.run > 1:  # its captures are on disk; what is looked into are those of the first run
        why = in_words(odd)
    elif odd.kind == "missing":
        why, seen = _why_missing(odd, captures)
        evidence += seen
    elif odd.kind == "impossible":
        why, seen = _why_impossible(odd, captures[odd.capture])
        evidence += seen
    else:
        why = (
            f"The {side}'s probabilities are above 1 at {odd.n} tokens: its log-sum-exp is over "
            "less than the vocabulary."
        )
    confirmed = [] if odd.kind == "positive" or odd.run > 1 else _left_out(edges)
    return build_cause(
        CAUSES[odd.kind], odd.side, SURE[odd.kind], why, evidence, confirmed, location=None
    )


def _other_side(odd: OddTokens) -> list[Observation]:
    """What the other side says of the tokens that are listed."""
    others = [t.logp_train if odd.side == "infer" else t.logp_infer for t in odd.tokens]
    finite = [value for value in others if math.isfinite(value)]
    if not finite:
        return []
    other = SIDES["train" if odd.side == "infer" else "infer"]
    return [
        Observation(
            observation=f"mean log-prob of the first {len(finite)} of them in the {other}",
            value=float(np.mean(finite)),
            expected="the same on both sides",
        )
    ]


def _left_out(edges: Mapping[str, Measures]) -> list[Confirmation]:
    size = edges.get("decode_train", {}).get("abs_delta_mean")
    if size is None or not size.n:
        return []
    return [
        Confirmation(
            experiment=f"the {size.n_dropped} tokens left out, mean |delta| of the rest in nats",
            before=math.inf,
            after=size.value,
            by="record",
        )
    ]


def _why_missing(odd: OddTokens, captures: Mapping[str, Capture]) -> tuple[str, list[Observation]]:
    """A record that is missing, or a program that computes NaN: its distributions tell, or what it
    says of the same tokens another time.
    """
    side, capture = SIDES[odd.side], captures[odd.capture]
    flat = flat_of(odd, captures)
    known = _probed(capture, flat)
    again = [captures[name] for name in AGAIN[odd.capture] if name in captures]
    repeated = [a.logp[flat[flat < a.rows.n_tokens]] for a in again]
    there = [values for values in repeated if len(values)]
    seen = []
    if known is not None:
        whole = np.asarray(np.isnan(known).all(axis=1))
        seen.append(
            Observation(
                observation=f"of {len(whole)} distributions at these tokens, those that are NaN",
                value=int(whole.sum()),
                expected="all if the program computes NaN, none if the record is missing",
            )
        )
        if whole.all():
            return f"The {side} computes NaN: whole distributions are.", seen
        if not whole.any():
            return f"The {side} has distributions at these tokens: the record is missing.", seen
    if there:
        values = np.concatenate(there)
        seen.append(
            Observation(
                observation=f"of {len(values)} of these tokens that it scored again, those that "
                "are NaN again",
                value=int(np.isnan(values).sum()),
                expected="none if the record is missing",
            )
        )
        if not np.isnan(values).any():
            return (
                f"The {side} has these log-probs when it scores the same tokens again: the record "
                "is missing, or it computes NaN now and then.",
                seen,
            )
    tail = _to_the_end(capture, flat)
    if tail:
        seen.append(
            Observation(
                observation="rows of which every sampled token from the first NaN on is NaN",
                value=tail,
                expected="none if single records are missing",
            )
        )
    return f"The {side} has NaN for log-probs: a record is missing, or a kernel gives NaN.", seen


def _to_the_end(capture: Capture, flat: Int64) -> int:
    """Rows that are NaN from some token on to their end, two tokens at least."""
    rows, count = capture.rows, 0
    nan = np.zeros(rows.n_tokens, bool)
    nan[flat] = True
    for start, stop in rows.spans():
        own = nan[start:stop][rows.sampled[start:stop]]
        count += bool(own.sum() > 1 and own[int(own.argmax()) :].all())
    return count


def _why_impossible(odd: OddTokens, capture: Capture) -> tuple[str, list[Observation]]:
    side, probes = SIDES[odd.side], capture.probe_logp
    said = f"The {side} gives probability 0 to tokens that were sampled ({odd.n})"
    if probes is None or not len(probes):
        return f"{said}; its distributions were not recorded.", []
    zero = np.isneginf(probes)
    masked = spans_of(np.asarray(zero.all(axis=0)))
    n_masked, counts = sum(b - a for a, b in masked), (~zero).sum(axis=1)
    seen = [
        Observation(
            observation=f"entries of {probes.shape[1]} that have probability 0 in all of "
            f"{len(probes)} distributions",
            value=n_masked,
            expected="0",
        )
    ]
    if n_masked:
        shown = ", ".join(
            f"{a} to {b - 1}" if b - a > 1 else f"{a}" for a, b in masked[:SPANS_SHOWN]
        )
        more = f" and {len(masked) - SPANS_SHOWN} more ranges" if len(masked) > SPANS_SHOWN else ""
        return f"{said}: it masks {n_masked} entries of the vocabulary, ids {shown}{more}.", seen
    if zero.any():
        few = (
            f"{counts.min()}"
            if counts.min() == counts.max()
            else f"{counts.min()} to {counts.max()}"
        )
        return (
            f"{said}: it scores over a part of the vocabulary that differs from token to token, "
            f"{few} of {probes.shape[1]} entries, as top-k and top-p keep.",
            seen,
        )
    return (
        f"{said}; none of its distributions has such an entry: only the reported values do.",
        seen,
    )


def masked_ids(capture: Capture) -> tuple[tuple[int, int], ...]:
    """Entries of the vocabulary with probability 0 in every distribution that was recorded."""
    if capture.probe_logp is None or not len(capture.probe_logp):
        return ()
    return spans_of(np.asarray(np.isneginf(capture.probe_logp).all(axis=0)))


def spans_of(chosen: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """[V] marks as half-open ranges.

    >>> spans_of(np.array([True, True, False, True]))
    ((0, 2), (3, 4))
    """
    edges = np.flatnonzero(np.diff(np.pad(chosen.astype(np.int8), 1)))
    return tuple((int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True))


def flat_of(odd: OddTokens, captures: Mapping[str, Capture]) -> Int64:
    """[n] flat indices of the tokens, found again in the captures."""
    other = next(against for name, _, against in LOOKED_AT if name == odd.capture)
    capture = captures[odd.capture]
    sampled = np.flatnonzero(capture.rows.sampled)
    masks = odd_masks(capture.logp[sampled], captures[other].logp[sampled])
    found = [sampled[mask.flat] for mask in masks if mask.kind == odd.kind]
    return np.concatenate([np.zeros(0, np.int64), *found])


def _probed(capture: Capture, flat: Int64) -> NDArray[np.float32] | None:
    """Distributions that were recorded at some of these tokens; None where none was."""
    if capture.probe_logp is None:
        return None
    at = np.isin(capture.probe_positions, flat)
    return capture.probe_logp[at] if at.any() else None
