"""Causes that the log-probs of two captures give away by themselves, without a reference.

Constants, a neighbour's values and a coarse grid are seen in the numbers: nothing is simulated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mismatch_lab.attribution.build_cause import Side, build_cause
from mismatch_lab.attribution.fit import Fit, fit
from mismatch_lab.attribution.hypotheses import Hypothesis, TokenChange
from mismatch_lab.attribution.pursuit import MOSTLY, finite_mean_abs
from mismatch_lab.attribution.simulate import Prediction
from mismatch_lab.attribution.suspects import SMALLEST_NATS
from mismatch_lab.attribution.token_changes import TOKEN_CHANGES, Float64
from mismatch_lab.attribution.token_patterns import token_patterns
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.measures.grids import on_grid_share
from mismatch_lab.schema import Cause, Confirmation, Observation

NOT_SEEN = (
    "Looked for in these log-probs alone: constants, a neighbour's values, coarse grids. What is "
    "wrong inside the model, its weights or its sampling needs modules or a reference: "
    "mismatch-lab diagnose."
)

GRIDS: dict[str, tuple[str, float]] = {
    "of bfloat16": ("through_bfloat16", 0),
    "of float16": ("through_float16", 0),
    **{f"of {digits} decimals": ("decimals", digits) for digits in (1, 2, 3, 4)},
}
"""name -> row of TOKEN_CHANGES and its number."""

ON_GRID = 0.99
"""Share of a side's values that lie on a grid if it was rounded to it."""

FEWEST = 16
"""Values needed to speak of a grid: on that of 4 decimals one in 100 lies by chance."""

ROW_NOISE = 2.5
"""A row is off if its error is so many times that of the median row under the better reading."""

NAMES: dict[Side, str] = {"infer": "engine", "train": "trainer"}
OTHER: dict[Side, Side] = {"infer": "train", "train": "infer"}
Values = Mapping[Side, Float64]
"""[T] log-probs of each side, NaN where nothing was sampled."""


def causes_of_two(infer: Capture, train: Capture) -> list[Cause]:
    """Causes that two captures of the same tokens show, the surest first."""
    rows = infer.rows
    values: dict[Side, Float64] = {
        "infer": np.where(rows.sampled, infer.logp.astype(np.float64), np.nan),
        "train": np.where(rows.sampled, train.logp.astype(np.float64), np.nan),
    }
    if not _apart(values) > 0:
        return []
    grids = {side: grid_of(logp, rows) for side, logp in values.items()}
    causes = _constants(values, grids, rows)
    causes += _shifted(values, rows, off_their_distribution(infer, train))
    causes += _rounded(values, grids, rows)
    return sorted(causes, key=lambda cause: -cause.confidence)


@dataclass(frozen=True)
class Grid:
    """A row of GRIDS, and the share of a side's values that lie on it."""

    name: str
    share: float


def grid_of(logp: Float64, rows: Rows) -> Grid | None:
    """The first grid that log-probs lie on. Whole numbers lie on all of them and do not count."""
    told = logp[np.isfinite(logp) & (logp != np.round(logp))]
    if len(told) < FEWEST:
        return None
    for name in GRIDS:
        share = on_grid_share(told.astype(np.float32), _on(name, told, rows))
        if share >= ON_GRID:
            return Grid(name, share)
    return None


def off_their_distribution(infer: Capture, train: Capture) -> Side:
    """The side whose log-probs are not those of its own distributions; `both` where none is told
    by the distributions that were recorded.
    """
    known: dict[Side, bool] = {}
    scale = float(np.nanmean(np.abs(train.logp - infer.logp)[infer.rows.sampled]))
    for side, capture in (("infer", infer), ("train", train)):
        if capture.probe_logp is None or not len(capture.probe_positions):
            continue
        at = capture.probe_positions
        own = capture.probe_logp[np.arange(len(at)), capture.rows.token_ids[at]]
        error = finite_mean_abs((capture.logp[at] - own)[capture.rows.sampled[at]])
        known[side] = error > scale / 2  # type: ignore[index]
    off = [side for side, is_off in known.items() if is_off]
    if len(off) == 1:
        return off[0]
    return OTHER[next(iter(known))] if len(known) == 1 else "both"


def _apart(values: Values) -> float:
    return finite_mean_abs(values["train"] - values["infer"])


def _on(grid: str, logp: Float64, rows: Rows) -> Float64:
    name, number = GRIDS[grid]
    return TOKEN_CHANGES[name](logp, rows, number)


def _constants(
    values: dict[Side, Float64], grids: Mapping[Side, Grid | None], rows: Rows
) -> list[Cause]:
    """Constants of either side; the tokens that carry them are taken out of `values`."""
    causes = []
    usual = float(np.nanmedian(np.abs(values["train"] - values["infer"])))
    for side, other in OTHER.items():
        sound, grid = values[other], grids[side]
        # Rounded values meet in whole numbers by chance: what rounding can do is no sign.
        coarse = (
            0.0 if grid is None else float(np.nanmax(np.abs(_on(grid.name, sound, rows) - sound)))
        )
        noise = max(usual, coarse, SMALLEST_NATS)
        for pattern in token_patterns(values[side], sound, rows, noise):
            if not np.isfinite(pattern.value):
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


def _shifted(values: Values, rows: Rows, side: Side) -> list[Cause]:
    """One side's log-probs are those of the next or the last token of the other's."""
    found = [_shift_fit(values, rows, by) for by in (-1.0, 1.0)]
    best = min((f for f in found if f), key=lambda f: f.residual_nats, default=None)
    if best is None or best.explained < MOSTLY:
        return []
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
    return [build_cause("shift-by-one", side, 0.95, said, [_explained(best)], [moved])]


def _shift_fit(values: Values, rows: Rows, by: float) -> Fit | None:
    change = TokenChange("shift", by)
    moved = TOKEN_CHANGES[change.name](values["infer"], rows, by)
    plain = np.abs(values["train"] - values["infer"])
    other = np.abs(values["train"] - moved)
    row_of = rows.row_ids()
    better = np.fmin(_by_row(plain, row_of), _by_row(other, row_of))
    noise = ROW_NOISE * float(np.nanmedian(better)) + SMALLEST_NATS
    flat = np.flatnonzero(np.isfinite(plain) & np.isfinite(moved))
    hypothesis = Hypothesis("shift-by-one", "one place off", tokens=(change,))
    prediction = Prediction(flat, moved[flat])
    return fit((hypothesis,), prediction, values["infer"], values["train"], row_of, noise)


def _by_row(errors: Float64, row_of: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Float64:
    """Mean over the finite errors of each row; NaN for a row without."""
    finite = np.isfinite(errors)
    count = np.bincount(row_of[finite], minlength=int(row_of[-1]) + 1)
    total = np.bincount(row_of[finite], errors[finite], minlength=len(count))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


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
        said = f"The log-probs of both sides lie on a coarse grid, {grid.name}."
        return [build_cause("logprob-precision", "both", 0.5, said, told)]
    best = _rounding_fit(values, side, grid.name, rows)
    enough = best.explained >= MOSTLY
    more = "" if enough else " Rounding alone does not explain the difference."
    said = f"The {NAMES[side]}'s log-probs lie on the grid {grid.name}, the other's do not.{more}"
    rounded = Confirmation(
        experiment=f"the other side rounded to the grid {grid.name}, mean |delta|",
        before=best.sound_nats,
        after=best.residual_nats,
    )
    return [
        build_cause(
            "logprob-precision", side, 0.95 if enough else 0.5, said,
            [*told, _explained(best)], [rounded],
        )
    ]  # fmt: skip


def _rounding_fit(values: Values, side: Side, grid: str, rows: Rows) -> Fit:
    sound = values[OTHER[side]]
    finite = np.flatnonzero(np.isfinite(values["train"] - values["infer"]))
    hypothesis = Hypothesis("logprob-precision", f"rounded to the grid {grid}")
    predicted = Prediction(finite, _on(grid, sound, rows)[finite])
    found = fit((hypothesis,), predicted, sound, values[side], rows.row_ids(), SMALLEST_NATS)
    assert found is not None  # some value is finite: the sides lie apart
    return found


def _explained(found: Fit) -> Observation:
    return Observation(
        observation=f"share of the difference that goes away: {found.explanation[0].label}",
        value=found.explained,
        expected="1 if this is the cause, 0 or less if not",
    )
