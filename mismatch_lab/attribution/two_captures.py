"""Causes that the log-probs of two captures give away by themselves, without a reference.

Constants, a neighbour's values and a coarse grid are seen in the numbers: nothing is simulated.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mismatch_lab.attribution.build_cause import Side, build_cause
from mismatch_lab.attribution.coarse_grids import Grid, coarseness, grid_of, mean_by_row, on_grid
from mismatch_lab.attribution.fit import Fit, fit
from mismatch_lab.attribution.hypotheses import Hypothesis, TokenChange
from mismatch_lab.attribution.pursuit import MOSTLY, finite_mean_abs
from mismatch_lab.attribution.simulate import Prediction
from mismatch_lab.attribution.suspects import SMALLEST_NATS
from mismatch_lab.attribution.token_changes import TOKEN_CHANGES, Float64
from mismatch_lab.attribution.token_patterns import IMPOSSIBLE, TokenPattern, token_patterns
from mismatch_lab.captures.capture import Capture, Int64, Rows, chosen_rows
from mismatch_lab.schema import Cause, Confirmation, Observation

NOT_SEEN = (
    "Looked for in these log-probs alone: constants, a neighbour's values, coarse grids. What is "
    "wrong inside the model, its weights or its sampling needs modules or a reference: "
    "mismatch-lab diagnose."
)

MOST_TOKENS = 1 << 16
"""Larger captures are looked at in part."""

FEWEST_PROBES = 4
"""Distributions at tokens that differ, needed to say whether a side agrees with its own."""

CONTRADICTED = 0.25
"""Share of the tokens with one possible value that the other side contradicts if it is none."""

ROW_NOISE = 2.5
"""A row is off if its error is so many times that of the median row under the better reading."""

NAMES: dict[Side, str] = {"infer": "engine", "train": "trainer"}
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
    if not _apart(values) > SMALLEST_NATS:  # the constants were all there was
        return causes
    shift = _shift(values, rows)
    if shift is not None:
        causes.append(_shifted(shift, off_their_distribution(infer, train)))
    causes += _rounded(values, grids, rows)
    return sorted(causes, key=lambda cause: -cause.confidence)


def looked_at(rows: Rows) -> Int64:
    """Rows that are looked at, spread evenly: defects of these kinds touch many."""
    share = min(1.0, MOST_TOKENS / rows.n_tokens)
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
        if capture.probe_logp is None or len(at) < FEWEST_PROBES:
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
        sound, grid = values[other], grids[side]
        # What rounding can do is no sign.
        noise = max(usual, coarseness(grid, sound, rows), SMALLEST_NATS)
        for pattern in token_patterns(values[side], sound, rows, noise):
            if not _is_placeholder(pattern, values[side], grid):
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
            causes.append(build_cause(pattern.cause, side, 0.95, said, [evidence], [left]))
    return causes


def _is_placeholder(pattern: TokenPattern, observed: Float64, grid: Grid | None) -> bool:
    """Whether a number stands there instead of a log-prob, and is no log-prob like others.

    Sure tokens have exactly 0 in fp32 and round to it, and rounded values meet in whole numbers:
    a possible value counts off a grid only, and where the other side contradicts much of it.
    """
    low, high = IMPOSSIBLE
    if not np.isfinite(pattern.value):
        return False
    if pattern.value <= low or pattern.value > high:
        return True
    rounded = grid is not None and bool((pattern.tokens & grid.tokens).any())
    return not rounded and pattern.tokens.sum() >= CONTRADICTED * (observed == pattern.value).sum()


def _shift(values: Values, rows: Rows) -> Fit | None:
    """The fit of one side's log-probs to the other's neighbours, where it is a good one."""
    found = [_shift_fit(values, rows, by) for by in (-1.0, 1.0)]
    best = min((f for f in found if f), key=lambda f: f.residual_nats, default=None)
    return best if best is not None and best.explained >= MOSTLY else None


def _shifted(best: Fit, side: Side) -> Cause:
    where = f" {best.extent}" if best.extent else ""
    way = "before" if best.explanation[0].tokens[0].value < 0 else "after"
    said = f"The trainer's log-probs are the engine's of the token {way}{where}."
    if side == "both":
        said += " Which side is off, two lists of log-probs cannot tell."
    moved = Confirmation(
        experiment=f"one side moved by one position{where}, mean |delta|",
        before=best.sound_nats,
        after=best.residual_nats,
    )
    return build_cause("shift-by-one", side, 0.95, said, [_explained(best)], [moved])


def _shift_fit(values: Values, rows: Rows, by: float) -> Fit | None:
    change = TokenChange("shift", by)
    moved = TOKEN_CHANGES[change.name](values["infer"], rows, by)
    plain = np.abs(values["train"] - values["infer"])
    other = np.abs(values["train"] - moved)
    row_of = rows.row_ids()
    better = np.fmin(mean_by_row(plain, row_of), mean_by_row(other, row_of))
    noise = ROW_NOISE * float(np.nanmedian(better)) + SMALLEST_NATS
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
        return [build_cause("logprob-precision", "both", 0.5, said, told)]
    best = _rounding_fit(values, side, grid, rows)
    enough = best.explained >= MOSTLY
    more = "" if enough else " Rounding alone does not explain the difference."
    where = f"on the grid {grid.name}{grid.extent}"
    said = f"The {NAMES[side]}'s log-probs lie {where}, the other's do not.{more}"
    rounded = Confirmation(
        experiment=f"the other side rounded to lie {where}, mean |delta|",
        before=best.sound_nats,
        after=best.residual_nats,
    )
    evidence = [*told, _explained(best)]
    confidence = 0.95 if enough else 0.5
    return [build_cause("logprob-precision", side, confidence, said, evidence, [rounded])]


def _rounding_fit(values: Values, side: Side, grid: Grid, rows: Rows) -> Fit:
    sound = values[OTHER[side]]
    finite = np.flatnonzero(np.isfinite(values["train"] - values["infer"]))
    hypothesis = Hypothesis("logprob-precision", f"rounded to the grid {grid.name}{grid.extent}")
    rounded = np.where(grid.tokens, on_grid(grid.name, sound, rows), sound)
    predicted = Prediction(finite, rounded[finite])
    found = fit((hypothesis,), predicted, sound, values[side], rows.row_ids(), SMALLEST_NATS)
    assert found is not None  # some value is finite: the sides lie apart
    return found


def _explained(found: Fit) -> Observation:
    return Observation(
        observation=f"share of the difference that goes away: {found.explanation[0].label}",
        value=found.explained,
        expected="1 if this is the cause, 0 or less if not",
    )
