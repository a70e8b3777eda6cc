"""Sampled tokens whose log-prob is none: NaN, -inf, or above 0.

Each is a finding about that token. Every mean leaves out what is not finite, and says how many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.align import align
from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.names import HOOKED
from mismatch_lab.findings.edges import is_rescored
from mismatch_lab.schema import OddKind, OddToken, OddTokens

SHOWN = 20
"""Tokens of one kind that findings hold one by one; the others are counted."""

ABOVE_ROUNDING_NATS = 1e-3
"""A log-prob may come out above 0 by a rounding of the log-sum-exp, not by this much."""

LOOKED_AT: tuple[tuple[str, Literal["infer", "train"], str], ...] = (
    ("decode", "infer", "train"),
    ("prefill", "infer", "train"),
    ("train", "train", "decode"),
)
"""Capture, its side, and the capture of the other side."""

WORDS: dict[OddKind, str] = {
    "missing": "no log-prob (NaN)",
    "impossible": "probability 0 (-inf)",
    "positive": "a log-prob above 0",
}
SIDES = {"infer": "engine", "train": "trainer"}


@dataclass(frozen=True)
class OddMask:
    """Which sampled tokens of a capture are odd in one way."""

    kind: OddKind
    flat: NDArray[np.int64]
    """[n] flat token indices."""


def odd_masks(logp: NDArray[np.float32], other: NDArray[np.float32]) -> list[OddMask]:
    """What is odd about one side's log-probs and not about the other's of the same tokens.

    What both sides lack is nothing that they disagree on: it is left out, and counted.
    """
    found = [
        OddMask(kind, np.flatnonzero(_is(kind, logp) & ~_is(kind, other)).astype(np.int64))
        for kind in WORDS
    ]
    return [mask for mask in found if len(mask.flat)]


def _is(kind: OddKind, logp: NDArray[np.float32]) -> NDArray[np.bool_]:
    if kind == "missing":
        return np.asarray(np.isnan(logp))
    if kind == "impossible":
        return np.asarray(np.isneginf(logp))
    return np.asarray(logp > ABOVE_ROUNDING_NATS)


def odd_tokens(captures: Mapping[str, Capture], run: int = 1) -> list[OddTokens]:
    """Everything odd that one side has and the other has not, capture by capture."""
    found: list[OddTokens] = []
    for name, side, against in LOOKED_AT:
        if name == HOOKED and not is_rescored(captures):
            continue
        if name in captures and against in captures:
            found += _of_capture(captures, name, side, against, run)
    return found


def _of_capture(
    captures: Mapping[str, Capture],
    name: str,
    side: Literal["infer", "train"],
    against: str,
    run: int,
) -> list[OddTokens]:
    capture, other = captures[name], captures[against]
    pairs = align(capture, other, (name, against))
    text = {**other.token_text, **capture.token_text}
    found = []
    for mask in odd_masks(pairs.logp_a, pairs.logp_b):
        ids = capture.rows.token_ids[pairs.flat[mask.flat]]
        tokens = []
        for at, token_id in zip(mask.flat[:SHOWN], ids[:SHOWN].tolist(), strict=True):
            own, others = float(pairs.logp_a[at]), float(pairs.logp_b[at])
            tokens.append(
                OddToken(
                    row=int(pairs.row_ids[at]),
                    position=int(pairs.positions[at]),
                    token_id=token_id,
                    text=repr(text.get(token_id, ""))[1:-1],
                    logp_infer=own if side == "infer" else others,
                    logp_train=others if side == "infer" else own,
                )
            )
        found.append(
            OddTokens(
                capture=name,
                side=side,
                kind=mask.kind,
                n=len(mask.flat),
                of=len(pairs.flat),
                n_token_ids=len(np.unique(ids)),
                run=run,
                tokens=tokens,
            )
        )
    return found


def only_finite(captures: Mapping[str, Capture]) -> dict[str, Capture]:
    """The captures with NaN for what is no number, so that means leave it out; one that stands for
    two (`edges.completed`) still does.
    """
    finite = {id(capture): _finite(capture) for capture in captures.values()}
    return {name: finite[id(capture)] for name, capture in captures.items()}


def _finite(capture: Capture) -> Capture:
    if not np.isinf(capture.logp).any():
        return capture
    return replace(capture, logp=np.where(np.isinf(capture.logp), np.float32(np.nan), capture.logp))


def in_words(odd: OddTokens) -> str:
    """One sentence with the first token: what a reader looks up first."""
    first = odd.tokens[0]
    what = "re-scoring of the engine" if odd.capture == "prefill" else SIDES[odd.side]
    where = f"row {first.row}, position {first.position}, token {first.token_id} '{first.text}'"
    run = f", run {odd.run}" if odd.run > 1 else ""
    return (
        f"{odd.n} of {odd.of} sampled tokens with {WORDS[odd.kind]} in the {what} alone{run}; "
        f"first {where}, engine {first.logp_infer:.4g}, trainer {first.logp_train:.4g}."
    )


def not_measurable(odd: Sequence[OddTokens]) -> str:
    """A side that has nothing else, in words; empty where there is none."""
    for one in odd:
        if one.is_whole_side and one.kind != "positive":
            return (
                f"all {one.of} sampled tokens of the {SIDES[one.side]} ({one.capture}) have "
                f"{WORDS[one.kind]}"
            )
    return ""
