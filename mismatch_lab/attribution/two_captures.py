"""Causes that two captures give away by themselves, without a reference and nothing simulated.

Other token ids: where, and why. The answer decides whether two rows are the same conversation: a
trainer that renders another prompt keeps it, one that encodes text again keeps most of it. Rows
sampled twice share little more than the prompt; those are not the same rows, and nothing is said of
them. The same ids: constants, a neighbour's values and a coarse grid are seen in the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.attribution.candidates import Side, build_cause
from mismatch_lab.attribution.changes import TOKEN_CHANGES, Float64
from mismatch_lab.attribution.fit import Fit, fit
from mismatch_lab.attribution.hypotheses import Hypothesis, TokenChange
from mismatch_lab.attribution.search import finite_mean_abs
from mismatch_lab.attribution.simulate import Prediction
from mismatch_lab.attribution.thresholds import CONFIDENCE, THRESHOLDS
from mismatch_lab.attribution.token_patterns import FILL, TokenPattern, is_fill, token_patterns
from mismatch_lab.attribution.value_grids import Grid, coarseness, grid_of, mean_by_row, on_grid
from mismatch_lab.captures.capture import Capture, Int64, Rows, chosen_rows
from mismatch_lab.schema import Cause, Confirmation, Observation

Ids = NDArray[np.int32]

NAMES: dict[Side, str] = {"infer": "engine", "train": "trainer"}


@dataclass(frozen=True)
class Difference:
    """One part of one row, prompt or answer, whose ids differ between the sides."""

    row: int
    at: int
    """First differing position, counted from the start of the part."""
    infer: Ids
    """Ids of the part on the engine's side."""
    train: Ids

    @property
    def longer_by(self) -> int:
        """Tokens that the trainer has more."""
        return len(self.train) - len(self.infer)

    @property
    def doubled(self) -> Side | None:
        """The side that has the first token twice and is otherwise the same."""
        for side, long, short in (
            ("train", self.train, self.infer),
            ("infer", self.infer, self.train),
        ):
            if len(long) > 1 and long[0] == long[1] and np.array_equal(long[1:], short):
                return side  # type: ignore[return-value]
        return None


@dataclass(frozen=True)
class TokenIds:
    """How the ids of two captures differ."""

    n_rows: int
    same: Int64
    """Rows whose ids and sampled marks agree."""
    prompts: list[Difference]
    answers: list[Difference]


def differing_ids(infer: Capture, train: Capture) -> TokenIds | None:
    """Where ids differ; None if they agree, or if most rows are not of one conversation."""
    a, b = infer.rows, train.rows
    alike = np.array_equal(a.row_offsets, b.row_offsets)
    if a.n_rows != b.n_rows or (alike and np.array_equal(a.token_ids, b.token_ids)):
        return None
    same, kin = [], 0
    prompts: list[Difference] = []
    answers: list[Difference] = []
    for row, ((start, stop), (begin, end)) in enumerate(zip(a.spans(), b.spans(), strict=True)):
        ids, others = a.token_ids[start:stop], b.token_ids[begin:end]
        if np.array_equal(ids, others):
            kin += 1
            if np.array_equal(a.sampled[start:stop], b.sampled[begin:end]):
                same.append(row)
            continue
        cut, cut_b = int(a.prompt_lengths[row]), int(b.prompt_lengths[row])
        prompts += _difference(row, ids[:cut], others[:cut_b])
        answers += _difference(row, ids[cut:], others[cut_b:])
        kin += shared(ids[cut:], others[cut_b:]) >= THRESHOLDS.kin_share
    if not (prompts or answers) or kin < THRESHOLDS.kin_rows_share * a.n_rows:
        return None
    return TokenIds(a.n_rows, np.array(same, np.int64), prompts, answers)


def shared(ids: Ids, others: Ids) -> float:
    """Share of the shorter one that both begin with, or end with.

    >>> shared(np.array([5, 6, 7, 8], np.int32), np.array([5, 9, 7, 8], np.int32))
    0.75
    """
    least = min(len(ids), len(others))
    if not least:
        return float(len(ids) == len(others))
    head = _agreeing(ids, others)
    tail = min(_agreeing(ids[::-1], others[::-1]), least - head)
    return (head + tail) / least


def _agreeing(ids: Ids, others: Ids) -> int:
    """How many tokens both begin with."""
    least = min(len(ids), len(others))
    differs = np.flatnonzero(ids[:least] != others[:least])
    return int(differs[0]) if len(differs) else least


def _difference(row: int, ids: Ids, others: Ids) -> list[Difference]:
    if np.array_equal(ids, others):
        return []
    return [Difference(row, _agreeing(ids, others), ids, others)]


def token_id_causes(found: TokenIds, infer: Capture, train: Capture) -> list[Cause]:
    """One cause for prompts that differ, one for answers that do."""
    text = {**train.token_text, **infer.token_text}
    causes = []
    if found.prompts:
        doubled = {d.doubled for d in found.prompts}
        side = doubled.pop() if len(doubled) == 1 else None
        more = f": the {NAMES[side]} has the first token twice" if side else ""
        why = (
            f"The prompts of {len(found.prompts)} of {found.n_rows} rows have other ids{more}. "
            f"{_first(found.prompts[0], 'prompt', text)}"
        )
        evidence = _evidence(found.prompts, found.n_rows, "prompt", text)
        causes.append(
            build_cause("prompt-template", side or "both", CONFIDENCE.other_ids, why, evidence)
        )
    if found.answers:
        told = [_same_text(d, text) for d in found.answers]
        spelt = ", spelling the same text" if all(told) else ""
        why = (
            f"The answers of {len(found.answers)} of {found.n_rows} rows have other ids{spelt}: "
            "the trainer scores tokens that the engine did not sample. "
            f"{_first(found.answers[0], 'answer', text)}"
        )
        evidence = _evidence(found.answers, found.n_rows, "answer", text)
        evidence.append(
            Observation(
                observation="rows whose answers are the same text in other tokens",
                value=sum(told),
                expected="all of them, if text was encoded again",
            )
        )
        causes.append(
            build_cause(
                "retokenisation",
                "train",
                CONFIDENCE.other_ids if all(told) else CONFIDENCE.other_ids_and_text,
                why,
                evidence,
            )
        )
    return causes


def _evidence(
    differences: list[Difference], n_rows: int, part: str, text: Mapping[int, str]
) -> list[Observation]:
    first = differences[0]
    longer = [d.longer_by for d in differences]
    return [
        Observation(
            observation=f"rows of {n_rows} whose {part} ids differ",
            value=len(differences),
            expected="0",
        ),
        Observation(
            observation=f"first differing position in the {part} of row {first.row}: "
            f"{_pair(first, text)}",
            value=first.at,
            expected="none",
        ),
        Observation(
            observation=f"tokens that the trainer's {part} is longer by, from {min(longer)} to "
            f"{max(longer)}; mean",
            value=float(np.mean(longer)),
            expected="0",
        ),
    ]


def _first(difference: Difference, part: str, text: Mapping[int, str]) -> str:
    where = f"position {difference.at} of the {part} of row {difference.row}"
    return f"First at {where}: {_pair(difference, text)}."


def _pair(difference: Difference, text: Mapping[int, str]) -> str:
    """Both sides' tokens at the first differing position."""
    sides = (("engine", difference.infer), ("trainer", difference.train))
    return " and ".join(
        f"{_token(ids, difference.at, text)} in the {side}'s" for side, ids in sides
    )


def _token(ids: Ids, at: int, text: Mapping[int, str]) -> str:
    if at >= len(ids):
        return "no token"
    known = text.get(int(ids[at]))
    return f"{ids[at]}" if known is None else f"{ids[at]} {known!r}"


def _same_text(difference: Difference, text: Mapping[int, str]) -> bool:
    """Whether both sides' tokens spell the same; False where a token's text is not known."""
    spelt = [
        "".join(text[int(token)] for token in ids) if all(int(t) in text for t in ids) else None
        for ids in (difference.infer, difference.train)
    ]
    return spelt[0] is not None and spelt[0] == spelt[1]


NOT_SEEN = (
    "Looked for in these log-probs alone: constants, a neighbour's values, coarse grids. What is "
    "wrong inside the model, its weights or its sampling needs modules or a reference: "
    "mismatch-lab diagnose."
)


OTHER: dict[Side, Side] = {"infer": "train", "train": "infer"}
Values = Mapping[Side, Float64]
"""[T] log-probs of each side, NaN where nothing was sampled."""


def causes_of_two(infer: Capture, train: Capture) -> list[Cause]:
    """Causes that two captures of the same tokens show, the surest first."""
    chosen = looked_at(infer.rows)
    parts: list[tuple[Side, Capture]] = [
        ("infer", chosen_rows(infer, chosen)),
        ("train", chosen_rows(train, chosen)),
    ]
    rows = parts[0][1].rows
    values: dict[Side, Float64] = {
        side: np.where(rows.sampled, part.logp.astype(np.float64), np.nan) for side, part in parts
    }
    if not _apart(values) > 0:
        return []
    grids = {side: grid_of(logp, rows) for side, logp in values.items()}
    causes = _constants(values, grids, rows)
    if not _apart(values) > THRESHOLDS.smallest_nats:  # the constants were all there was
        return causes
    shift = _shift(values, rows)
    if shift is not None:
        causes.append(_shifted(shift, off_their_distribution(infer, train)))
    causes += _rounded(values, grids, rows)
    return sorted(causes, key=lambda cause: -cause.confidence)


def looked_at(rows: Rows) -> Int64:
    """Rows that are looked at, spread evenly: defects of these kinds touch many."""
    share = min(1.0, THRESHOLDS.two_captures_tokens / rows.n_tokens)
    return np.linspace(0, rows.n_rows - 1, max(1, int(share * rows.n_rows))).astype(np.int64)


def off_their_distribution(infer: Capture, train: Capture) -> Side:
    """The side whose log-probs are not those of its own distributions; `both` where none is told
    by the distributions that were recorded.
    """
    delta = np.abs(train.logp - infer.logp)
    scale = finite_mean_abs(delta[infer.rows.sampled])
    known: dict[Side, bool] = {}
    for side, capture in _sides(infer, train):
        at = capture.probe_positions
        at = at[capture.rows.sampled[at] & (delta[at] >= scale)]  # a shift may be of some rows
        if capture.probe_logp is None or len(at) < THRESHOLDS.two_captures_probes:
            continue
        full = capture.probe_logp[np.isin(capture.probe_positions, at)]
        own = full[np.arange(len(at)), capture.rows.token_ids[at]]
        known[side] = float(np.nanmedian(np.abs(capture.logp[at] - own))) > scale / 2
    off = [side for side, is_off in known.items() if is_off]
    if len(off) == 1:
        return off[0]
    return OTHER[next(iter(known))] if len(known) == 1 and not off else "both"


def _sides(infer: Capture, train: Capture) -> list[tuple[Side, Capture]]:
    return [("infer", infer), ("train", train)]


def _apart(values: Values) -> float:
    return finite_mean_abs(values["train"] - values["infer"])


def _constants(
    values: dict[Side, Float64], grids: Mapping[Side, Grid | None], rows: Rows
) -> list[Cause]:
    """Constants of either side; the tokens that carry them are taken out of `values`."""
    causes = []
    usual = float(np.nanmedian(np.abs(values["train"] - values["infer"])))
    for side, other in OTHER.items():
        expected, grid = values[other], grids[side]
        # What rounding can do is no sign.
        noise = max(usual, coarseness(grid, expected, rows), THRESHOLDS.smallest_nats)
        for pattern in token_patterns(values[side], expected, rows, noise):
            if not _is_placeholder(pattern, values[side], expected, grid):
                continue
            before = _apart(values)
            values[side] = np.where(pattern.tokens, np.nan, values[side])
            said = (
                f"{int(pattern.tokens.sum())} tokens of the {NAMES[side]} carry exactly "
                f"{pattern.value:g}, whatever the {NAMES[other]} says of them."
            )
            evidence = Observation(
                observation=f"tokens that carry exactly {pattern.value:g}",
                value=int(pattern.tokens.sum()),
                expected="none",
            )
            left = Confirmation(
                experiment="these tokens left out, mean |delta| of the rest",
                before=before,
                after=_apart(values),
            )
            causes.append(
                build_cause(pattern.cause, side, CONFIDENCE.token_pattern, said, [evidence], [left])
            )
    return causes


def _is_placeholder(
    pattern: TokenPattern, observed: Float64, expected: Float64, grid: Grid | None
) -> bool:
    """Whether a number stands there instead of a log-prob, and is no log-prob like others.

    Sure tokens have exactly 0 in fp32 and round to it, and rounded values meet in whole numbers:
    a possible value counts off a grid only, and where the other side contradicts much of it.
    """
    low, high = THRESHOLDS.possible_nats
    if not np.isfinite(pattern.value):
        return False
    if pattern.value <= low or pattern.value > high:
        return True
    if grid is not None and bool((pattern.tokens & grid.tokens).any()):
        return False
    if pattern.value == FILL:
        return is_fill(observed, expected)
    held = int((observed == pattern.value).sum())
    return bool(pattern.tokens.sum() >= THRESHOLDS.contradicted_share * held)


def _shift(values: Values, rows: Rows) -> Fit | None:
    """The fit of one side's log-probs to the other's neighbours, where it is a good one."""
    found = [_shift_fit(values, rows, by) for by in (-1.0, 1.0)]
    best = min((f for f in found if f), key=lambda f: f.residual_nats, default=None)
    return best if best is not None and best.explained >= THRESHOLDS.mostly_explained else None


def _shifted(best: Fit, side: Side) -> Cause:
    where = f" {best.extent}" if best.extent else ""
    way = "before" if best.explanation[0].tokens[0].value < 0 else "after"
    said = f"The trainer's log-probs are the engine's of the token {way}{where}."
    if side == "both":
        said += " Which side is off, two lists of log-probs cannot tell."
    moved = Confirmation(
        experiment=f"one side moved by one position{where}, mean |delta|",
        before=best.before_nats,
        after=best.residual_nats,
    )
    return build_cause(
        "shift-by-one", side, CONFIDENCE.moved_values, said, [_explained(best)], [moved]
    )


def _shift_fit(values: Values, rows: Rows, by: float) -> Fit | None:
    change = TokenChange("shift", by)
    moved = TOKEN_CHANGES[change.name](values["infer"], rows, by)
    plain = np.abs(values["train"] - values["infer"])
    other = np.abs(values["train"] - moved)
    row_of = rows.row_ids()
    better = np.fmin(mean_by_row(plain, row_of), mean_by_row(other, row_of))
    noise = THRESHOLDS.row_noise * float(np.nanmedian(better)) + THRESHOLDS.smallest_nats
    flat = np.flatnonzero(np.isfinite(plain) & np.isfinite(moved))
    hypothesis = Hypothesis("shift-by-one", "one place off", tokens=(change,))
    prediction = Prediction(flat, moved[flat])
    return fit((hypothesis,), prediction, values["infer"], values["train"], row_of, noise)


def _rounded(values: Values, grids: Mapping[Side, Grid | None], rows: Rows) -> list[Cause]:
    """Sides whose log-probs lie on a coarse grid, and how much of the difference that explains."""
    on = {side: grid for side, grid in grids.items() if grid is not None}
    if not on:
        return []
    side, grid = next(iter(on.items()))
    told = [
        Observation(
            observation=f"share of the {NAMES[which]}'s values on the grid {found.name}",
            value=found.share,
            expected="0.01 or less, by chance",
        )
        for which, found in on.items()
    ]
    if len(on) == 2:
        said = f"The log-probs of both sides lie on a coarse grid, {grid.name}{grid.extent}."
        return [
            build_cause("logprob-precision", "both", CONFIDENCE.row_grid_unexplained, said, told)
        ]
    best = _rounding_fit(values, side, grid, rows)
    enough = best.explained >= THRESHOLDS.mostly_explained
    more = "" if enough else " Rounding alone does not explain the difference."
    where = f"on the grid {grid.name}{grid.extent}"
    said = f"The {NAMES[side]}'s log-probs lie {where}, the other's do not.{more}"
    rounded = Confirmation(
        experiment=f"the other side rounded to lie {where}, mean |delta|",
        before=best.before_nats,
        after=best.residual_nats,
    )
    evidence = [*told, _explained(best)]
    confidence = CONFIDENCE.row_grid if enough else CONFIDENCE.row_grid_unexplained
    return [build_cause("logprob-precision", side, confidence, said, evidence, [rounded])]


def _rounding_fit(values: Values, side: Side, grid: Grid, rows: Rows) -> Fit:
    expected = values[OTHER[side]]
    finite = np.flatnonzero(np.isfinite(values["train"] - values["infer"]))
    hypothesis = Hypothesis("logprob-precision", f"rounded to the grid {grid.name}{grid.extent}")
    rounded = np.where(grid.tokens, on_grid(grid.name, expected, rows), expected)
    predicted = Prediction(finite, rounded[finite])
    found = fit(
        (hypothesis,), predicted, expected, values[side], rows.row_ids(), THRESHOLDS.smallest_nats
    )
    assert found is not None  # some value is finite: the sides lie apart
    return found


def _explained(found: Fit) -> Observation:
    return Observation(
        observation=f"share of the difference that goes away: {found.explanation[0].label}",
        value=found.explained,
        expected="1 if this is the cause, 0 or less if not",
    )
