"""Suppositions about how tokens were drawn, where it was not from what is reported.

Under a supposition the distribution p that is reported becomes another one, q, and the tokens y
that were drawn gain sum log q(y)/p(y) nats of log-likelihood. If they were drawn from p, q(y)/p(y)
has at most 1 as its mean, whatever came before; so the gain of one supposition reaches g with a
probability of at most exp(-g) (Markov; Ville for the running product). Of a family with one free
number the best value counts, and that stays so:

- where q moves smoothly with the number (a temperature, a penalty), twice the best gain is
  chi-squared with one degree of freedom (Wilks 1938), whose tail is below exp(-g);
- where the number is an edge beyond which nothing is drawn (top-p, top-k, min-p), the best value is
  the smallest set that holds all that was drawn. It gains g if nothing was drawn outside the set
  whose own gain is g, which happens with a probability of exp(-g).

Families are added up (Bonferroni). Conversely, if a supposition holds, its gain has the Kullback-
Leibler divergence of q from p, summed over tokens, as its mean: that tells what would be noticed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, log, nan, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.measures.rows import AnyInts, FloatArray

ERROR_RATE = 1e-4
"""Probability that a run whose tokens are drawn as reported is said to draw them otherwise: half of
it for the z of `calibration`, half for all families together. At 1e-4 nobody who checks every day
sees it in years."""

NOTICED_WITH = 0.95
"""Probability with which a deviation is noticed from which on it counts as one that would be."""

LARGEST = 256
"""Tokens of a position, the likeliest, among which edges are looked for: a set of more tokens
leaves out so little that it counts as all of them."""

LEAK = 1e-3
"""Share of draws that may come from outside of a supposed set: distributions are recorded by a pass
of their own, in which a token at the edge may stand on its other side. It costs 1.3 nats in 1,264
tokens, and a token outside 6.9."""

NEARLY_AS_LIKELY = 3.0
"""Nats below the likeliest number down to which others stay possible: the true edge of a set gains
less than that with a probability of exp(-3) = 5 %, the true number of a smooth family of 1.4 %."""

OBSERVED, EXPECTED, VARIANCE = range(3)
"""Rows of a family's gains [3, M]: of the tokens drawn; the mean and the variance that the gain has
if the supposition holds."""


LARGEST_EXPONENT = 700.0
"""exp of more overflows: a likelihood so flat bounds nothing on that side."""


@dataclass(frozen=True, slots=True)
class Family:
    """Suppositions with one free number."""

    values: tuple[float, ...]
    """[M], ascending; of edges all that there are, or too near to each other to be told apart; of
    smooth families so many that the best gains six sevenths of what a number between would."""
    neutral: float
    """The number that changes nothing."""
    smooth: bool
    """Whether the gain is a smooth function of the number, or of an edge."""

    def on_line(self, values: FloatArray) -> FloatArray:
        """Values of a smooth family where gains are about parabolas: factors by their logarithm."""
        return np.log(values) if self.neutral == 1 else values

    def off_line(self, value: float) -> float:
        """And back."""
        if self.neutral != 1:
            return value
        return exp(value) if value < LARGEST_EXPONENT else float("inf")


def _steps(low: float, high: float, step: float) -> tuple[float, ...]:
    """Numbers from low to high, both included."""
    return tuple(round(low + i * step, 4) for i in range(round((high - low) / step) + 1))


_COLDER = (0.25, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)
_WARMER = (1.02, 1.05, 1.1, 1.15, 1.2, 1.35, 1.6, 2.2)
_PENALTIES = (-1.0, -0.5, -0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0)

FAMILIES: dict[str, Family] = {
    "temperature": Family((*_COLDER, *_WARMER), 1.0, True),
    "top_p": Family((*_steps(0.02, 0.98, 0.01), 0.985, 0.99, 0.995, 0.998), 1.0, False),
    "top_k": Family(_steps(1, LARGEST, 1), inf, False),
    "min_p": Family(
        (0.001, 0.002, 0.003, 0.005, 0.007, *_steps(0.01, 0.2, 0.01), *_steps(0.22, 0.9, 0.02)),
        0.0,
        False,
    ),
    "repetition_penalty": Family(
        (0.7, 0.8, 0.9, 0.95, 0.98, 1.02, 1.05, 1.1, 1.2, 1.35, 1.5, 2.0), 1.0, True
    ),
    "presence_penalty": Family(_PENALTIES, 0.0, True),
    "frequency_penalty": Family(_PENALTIES, 0.0, True),
}
"""name -> its numbers, the temperature over the reported one. Another family is one row here, its
gains in `engines/draws.py`, its words in `findings/drawn.py`, and the cause that it is of in
`attribution/sampled_otherwise.py`."""

NEVER_DRAWN = "never_drawn"
"""And a family beside these: some tokens cannot be drawn at all."""

CERTAIN_NATS = log(2 * (len(FAMILIES) + 1) / ERROR_RATE)
"""Gain from which on a supposition disproves the report (12.0 nats)."""

CERTAIN_Z = NormalDist().inv_cdf(1 - ERROR_RATE / 4)
"""|z| of `calibration` from which on it disproves the report without any supposition (4.06)."""


@dataclass(frozen=True, slots=True)
class Supposed:
    """The likeliest number of a family.

    Attributes:
        family: a name of FAMILIES, or NEVER_DRAWN.
        value: the number; for NEVER_DRAWN the tokens that cannot be drawn.
        nats: what it gains.
        low: smallest number that gains nearly as much; with `high` a 95 % interval or a wider one.
        high: largest.
    """

    family: str
    value: float
    nats: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Noticed:
    """Numbers of a family that would have been noticed.

    Attributes:
        below: from here downwards; NaN if none.
        above: from here upwards; NaN if none.
    """

    below: float
    above: float


def never_drawn(expected_counts: NDArray[np.floating[Any]], drawn: AnyInts) -> Supposed:
    """Tokens that were drawn nowhere, though they should have been.

    Without a token that was expected E times the drawn ones gain at least E nats. Which tokens
    these are was not known before: each costs 1 + log V nats, so that what all sets of tokens could
    gain by chance adds up to less than one supposition's (exp(1/e) - 1).

    Args:
        expected_counts: float [V], probabilities summed over positions.
        drawn: token ids that were drawn.
    """
    surplus = expected_counts.astype(np.float64) - 1.0 - log(len(expected_counts))
    surplus[drawn] = 0.0
    worth = surplus[surplus > 0]
    n = float(len(worth))
    return Supposed(NEVER_DRAWN, n, float(worth.sum()), n, n)


def never_drawn_noticed(vocabulary: int) -> float:
    """Expected draws of a token from which on it would have been noticed that it is never drawn."""
    return CERTAIN_NATS + 1.0 + log(vocabulary)


def likeliest(name: str, gains: FloatArray) -> Supposed:
    """The number of a family under which the drawn tokens are likeliest.

    Of a smooth family it lies between the values, at the top of a parabola; what it gains is that
    of the best value.

    Args:
        name: of the family.
        gains: [3, M].
    """
    family, observed = FAMILIES[name], gains[OBSERVED]
    values, best = np.array(family.values), int(np.argmax(observed))
    value = low = high = float(values[best])
    if family.smooth:
        near = np.argsort(np.abs(np.arange(len(values) + 1) - _place(family, best)))[:3]
        x = family.on_line(np.insert(values, _zero(family), family.neutral))[near]
        bend, slope, _ = np.polyfit(x, np.insert(observed, _zero(family), 0.0)[near], 2)
        if bend < 0:
            top, width = -slope / (2 * bend), sqrt(NEARLY_AS_LIKELY / -bend)
            value = family.off_line(float(np.clip(top, x.min(), x.max())))
            low, high = family.off_line(top - width), family.off_line(top + width)
    else:
        close = values[observed >= observed[best] - NEARLY_AS_LIKELY]
        low, high = float(close.min()), float(close.max())
    return Supposed(name, value, float(observed[best]), low, high)


def _zero(family: Family) -> int:
    """Where the neutral number stands among the values."""
    return int(np.searchsorted(family.values, family.neutral))


def _place(family: Family, best: int) -> int:
    """Where a value stands with the neutral number among them."""
    return best + (best >= _zero(family))


def held_out(name: str, chosen_on: FloatArray, others: FloatArray) -> float:
    """What tokens gain with a number that was not chosen on them.

    Of the numbers that are nearly as likely as the best the most cautious is taken: what moves an
    edge inwards by one token would lose more in the others than that token is worth.

    Args:
        name: of the family.
        chosen_on: [3, M] gains of some tokens.
        others: [3, M] gains of others.
    """
    values, neutral = np.array(FAMILIES[name].values), FAMILIES[name].neutral
    close = chosen_on[OBSERVED] >= chosen_on[OBSERVED].max() - NEARLY_AS_LIKELY
    change = np.abs(np.clip(neutral, values[0] - 1, values[-1] + 1) - values)
    return float(others[OBSERVED, np.argmin(np.where(close, change, inf))])


def noticed(name: str, gains: FloatArray) -> Noticed:
    """From which numbers on a family would have disproved the report, with NOTICED_WITH.

    Args:
        name: of the family.
        gains: [3, M].
    """
    family = FAMILIES[name]
    values = np.array(family.values)
    sure = gains[EXPECTED] - NormalDist().inv_cdf(NOTICED_WITH) * np.sqrt(gains[VARIANCE])
    sides = (values < family.neutral, values > family.neutral)
    below, above = (_first_sure(family, values[side], sure[side]) for side in sides)
    return Noticed(below, above)


def _first_sure(family: Family, values: FloatArray, sure: FloatArray) -> float:
    """The number next to the neutral one that is sure to gain enough; NaN if there is none."""
    enough = values[sure >= CERTAIN_NATS]
    if not len(enough):
        return nan
    first = float(enough[np.argmin(np.abs(enough - min(family.neutral, values[-1] + 1)))])
    if not family.smooth:
        return first
    # Up to there gains grow with the square of the change.
    at = family.on_line(np.append(values, family.neutral))
    order = np.argsort(np.abs(at - at[-1]))
    root = np.sqrt(np.maximum(np.append(sure, 0.0)[order], 0.0))
    passed = int(np.argmax(root >= sqrt(CERTAIN_NATS)))
    x, y = at[order][passed - 1 : passed + 1], root[passed - 1 : passed + 1]
    return family.off_line(float(np.interp(sqrt(CERTAIN_NATS), y, x)))
