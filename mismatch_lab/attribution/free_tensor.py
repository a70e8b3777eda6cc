"""A tensor of an engine that shows neither tensors nor hidden states: which one, if it held other
numbers, would explain what the engine says.

Each tensor in turn is left free in the reference and fitted to what the engine says on some rows
(`interventions.fitted`). What counts is the error that this leaves on the rows held out: the right
tensor's new values hold there, those of others do not.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mismatch_lab.attribution.candidates import build_cause
from mismatch_lab.attribution.changes import Float64
from mismatch_lab.attribution.context import Context
from mismatch_lab.attribution.simulate import OutOfTimeError
from mismatch_lab.attribution.suspects import CAPTURED, Suspect
from mismatch_lab.attribution.thresholds import CONFIDENCE, THRESHOLDS
from mismatch_lab.captures.capture import Rows
from mismatch_lab.captures.probes import is_held_out
from mismatch_lab.schema import Alteration, Cause, Confirmation, Observation

SINGLE = re.compile(r"(.+\.experts)\.\d+\.(gate|up|down)_proj\.weight")
"""One expert's matrix, in checkpoints that store them one by one."""
SCREENING_STEPS = 12
"""Of each tensor's first fit. o_proj of a small Llama, with noise of half its deviation, left 0.16
nats of 0.28 after so many, where the next tensor left 0.22."""
STEPS = 60
"""Of the fits that are compared: after 40 these were 0.14 and 0.20, after 80 0.13 and 0.20."""
FINALISTS = 4
"""Tensors that are fitted for longer: those that left least."""
PASSES_PER_STEP = 3
"""Forward passes that a step of a fit takes as long as: forward, and backward at twice that."""


@dataclass(frozen=True)
class FreeTensor:
    """What came of leaving a tensor free."""

    name: str
    left_nats: float
    """mean |delta| on rows that the fit did not see."""


def free_tensor(context: Context, suspect: Suspect) -> tuple[Cause | None, str]:
    """The tensor that explains a suspect by itself, as a cause, and what is to be said otherwise.

    Args:
        context: the run.
        suspect: an engine's re-scoring that nothing known explains.
    """
    names = candidates(context.tensors or (), bool(context.config.get("tie_word_embeddings")))
    captured = context.captures_dir
    if not names or captured is None:
        return None, ""
    rows = context.measured.captures["decode"].rows
    before = held_out_error(suspect.observed, suspect.expected, rows)
    context.trials.say(f"leaving each of {len(names)} tensors free in the reference")
    try:
        fits = _Fits(context, suspect, said_in(captured, suspect.name))
        first = fits.of(names, SCREENING_STEPS, FINALISTS * STEPS)
        found = fits.of([one.name for one in first[:FINALISTS]], STEPS)
    except OutOfTimeError:
        return None, (
            "Which tensor of the engine's would explain it was not looked for: the budget does not "
            f"pay for {len(names)} fits. --budget SECONDS raises it."
        )
    return named(found, before, rows, len(first))


def said_in(captures: Path, suspect: str) -> Path:
    """The folder of what a suspect says: of an engine that nobody asked again, its sampling."""
    own = captures / CAPTURED[suspect]
    return own if own.is_dir() else captures / CAPTURED["decode"]


def candidates(tensors: Sequence[str], tied: bool) -> list[str]:
    """Names in the model of the tensors of a checkpoint: experts are one tensor there, and a head
    that is the embedding is none.
    """
    found: dict[str, None] = {}
    for name in tensors:
        single = SINGLE.fullmatch(name)
        if single is not None:
            name = f"{single[1]}.{'down' if single[2] == 'down' else 'gate_up'}_proj"
        if not (tied and name == "lm_head.weight"):
            found[name] = None
    return list(found)


def held_out_error(said: Float64, expected: Float64, rows: Rows) -> float:
    """mean |delta| in nats over the sampled tokens of the rows that no fit sees."""
    row_of = rows.row_ids()
    held_out = np.array([is_held_out(row) for row in range(rows.n_rows)], bool)
    delta = np.abs(np.asarray(said) - expected)[rows.sampled & held_out[row_of]]
    return float(np.nanmean(delta)) if np.isfinite(delta).any() else float("nan")


class _Fits:
    """Fits of one suspect, within the budget."""

    def __init__(self, context: Context, suspect: Suspect, capture: Path) -> None:
        self.simulator, self.suspect = context.simulator, suspect
        self.rows = context.measured.captures["decode"].rows
        self.said = (context.temperature, capture)

    def of(self, names: list[str], steps: int, steps_after: int = 0) -> list[FreeTensor]:
        """Every tensor that the model has after so many steps, those that leave least first.

        Raises:
            OutOfTimeError: the budget would end before the last, and what comes after it.
        """
        each_s = PASSES_PER_STEP * steps * min(self.simulator.spent.values(), default=0.0)
        if time.monotonic() + each_s > self.simulator.deadline:
            raise OutOfTimeError
        began, found = time.monotonic(), list[FreeTensor]()
        for number, name in enumerate(names, start=1):
            left_nats = self._left(name, steps)
            if np.isfinite(left_nats):
                found.append(FreeTensor(name, left_nats))
            each_s = (time.monotonic() - began) / number
            to_come = len(names) - number + steps_after / steps
            if time.monotonic() + to_come * each_s > self.simulator.deadline:
                raise OutOfTimeError
        return sorted(found, key=lambda one: one.left_nats)

    def _left(self, name: str, steps: int) -> float:
        temperature, capture = self.said
        value = f"{temperature}:{steps}:{capture}"
        fitted = Alteration(name="fitted_weights", value=value, tensors=(name,))
        scored = self.simulator.score((fitted,))
        if scored is None:
            return float("nan")
        return held_out_error(self.suspect.observed, scored.logp.astype(np.float64), self.rows)


def named(
    found: list[FreeTensor], before: float, rows: Rows, tried: int
) -> tuple[Cause | None, str]:
    """The tensor that stands out, or the words for that none does.

    Args:
        found: the tensors that leave least, the best first.
        before: mean |delta| of the same rows with the checkpoint's tensors, in nats.
        rows: of the run.
        tried: tensors that were left free.
    """
    if len(found) < 2:
        return None, ""
    best, second = found[:2]
    explained, next_best = (1 - one.left_nats / before for one in (best, second))
    stands_out = best.left_nats <= THRESHOLDS.next_tensor_share * second.left_nats
    if explained < THRESHOLDS.named_explained or not stands_out:
        return None, (
            f"No single tensor with other numbers explains it: {best.name} comes nearest, with "
            f"{max(explained, 0):.0%} of the error of rows that its fit had not seen."
        )
    count = sum(is_held_out(row) for row in range(rows.n_rows))
    sure = CONFIDENCE.explained_at_least + CONFIDENCE.explained_slope * explained
    cause = build_cause(
        "stale-tensor",
        "infer",
        min(CONFIDENCE.explained_at_most, sure),
        f"The engine shows no tensors. Of {tried} that were left free one at a time in the "
        f"reference, other numbers in {best.name} explain most of what it says on rows that they "
        "were not found on.",
        [
            Observation(
                observation="share of the error that goes away on rows that the fit had not seen, "
                f"with {best.name} free",
                value=explained,
                expected="near 1 if it is this tensor, less with few rows; 0 or less if not",
            ),
            Observation(
                observation=f"the same with the next best, {second.name}",
                value=next_best,
                expected="clearly less",
            ),
        ],
        [
            Confirmation(
                experiment=f"{count} rows that the fit had not seen: reference with {best.name} "
                "fitted to the others against the suspect, mean |delta| in nats",
                before=before,
                after=best.left_nats,
                by="unseen rows",
            )
        ],
        best.name,
    )
    return cause, ""
