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
from math import inf, log, nan
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.polynomial import Polynomial
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

NODES = (0.4, 0.5, 0.63, 0.8, 1.25, 1.6, 2.2, 3.0)
"""Temperatures, over the reported one, at which normalisers are computed. The polynomial through
them and 1 is within 0.2 nats in 1,264 tokens between 0.6 and 1.4 (peaked distributions over 49,152
tokens), and within 5 beyond, where gains are in the hundreds."""

OBSERVED, EXPECTED, VARIANCE = range(3)
"""Rows of a family's gains [3, M]: of the tokens drawn; the mean and the variance that the gain has
if the supposition holds."""


@dataclass(frozen=True, slots=True)
class Family:
    """Suppositions with one free number."""

    values: tuple[float, ...]
    """[M], ascending: fine enough that no other number gains more than about a nat above them."""
    neutral: float
    """The number that changes nothing."""


def _steps(low: float, high: float, step: float) -> tuple[float, ...]:
    """Numbers from low to high, both included."""
    return tuple(round(low + i * step, 4) for i in range(round((high - low) / step) + 1))


_ADDED = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0)
_FACTORS = (1.01, 1.02, 1.03, 1.05, 1.08, *_steps(1.1, 1.5, 0.05), 1.6, 1.8, 2.0)

FAMILIES: dict[str, Family] = {
    "temperature": Family(
        (*_steps(0.4, 0.99, 0.01), *_steps(1.01, 1.5, 0.01), *_steps(1.55, 3.0, 0.05)), 1.0
    ),
    "top_p": Family((*_steps(0.02, 0.98, 0.01), 0.985, 0.99, 0.995, 0.998), 1.0),
    "top_k": Family(_steps(1, LARGEST, 1), inf),
    "min_p": Family(
        (0.001, 0.002, 0.003, 0.005, 0.007, *_steps(0.01, 0.2, 0.01), *_steps(0.22, 0.9, 0.02)),
        0.0,
    ),
    "repetition_penalty": Family((0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, *_FACTORS), 1.0),
    "presence_penalty": Family((-1.0, -0.5, -0.2, -0.1, -0.05, *_ADDED), 0.0),
    "frequency_penalty": Family((-1.0, -0.5, -0.2, -0.1, -0.05, *_ADDED), 0.0),
}
"""name -> its numbers, the temperature over the reported one. Another family is one row here, its
gains in `engines/draws.py`, and its words in `attribution/sampled_otherwise.py`."""

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


def temperature_gains(log_normaliser: FloatArray, logp_drawn: float) -> FloatArray:
    """Gains of the temperatures of FAMILIES.

    Dividing log-probs l by T gives q = exp(l / T - K), K = log sum exp(l / T): all three gains are
    functions of K and its derivatives by 1 / T. K, summed over tokens, is interpolated in log T.

    Args:
        log_normaliser: float [len(NODES)], K of each node, summed over tokens.
        logp_drawn: reported log-probs of the tokens drawn, summed, in nats.

    Returns:
        [3, M] in nats, and nats squared for the variance.
    """
    nodes = np.log([*NODES, 1.0])
    curve = Polynomial.fit(nodes, [*log_normaliser, 0.0], len(NODES))
    at = np.log(FAMILIES["temperature"].values)
    beta = np.exp(-at)
    k, slope, bend = curve(at), curve.deriv()(at), curve.deriv(2)(at)
    first, second = -slope / beta, (bend + slope) / beta**2
    change = beta - 1.0
    return np.stack(
        [change * logp_drawn - k, change * first - k, np.maximum(change**2 * second, 0.0)]
    )


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


def likeliest(family: str, gains: FloatArray) -> Supposed:
    """The number of a family under which the drawn tokens are likeliest.

    Args:
        family: a name of FAMILIES.
        gains: [3, M].
    """
    values, observed = np.array(FAMILIES[family].values), gains[OBSERVED]
    best = int(np.argmax(observed))
    close = values[observed >= observed[best] - NEARLY_AS_LIKELY]
    return Supposed(
        family, float(values[best]), float(observed[best]), float(close.min()), float(close.max())
    )


def held_out(family: str, chosen_on: FloatArray, others: FloatArray) -> float:
    """What tokens gain with a number that was not chosen on them.

    Of the numbers that are nearly as likely as the best the most cautious is taken: what moves an
    edge inwards by one token would lose more in the others than that token is worth.

    Args:
        family: a name of FAMILIES.
        chosen_on: [3, M] gains of some tokens.
        others: [3, M] gains of others.
    """
    values, neutral = np.array(FAMILIES[family].values), FAMILIES[family].neutral
    close = chosen_on[OBSERVED] >= chosen_on[OBSERVED].max() - NEARLY_AS_LIKELY
    change = np.abs(np.clip(neutral, values[0] - 1, values[-1] + 1) - values)
    return float(others[OBSERVED, np.argmin(np.where(close, change, inf))])


def noticed(family: str, gains: FloatArray) -> Noticed:
    """From which numbers on a family would have disproved the report, with NOTICED_WITH.

    Args:
        family: a name of FAMILIES.
        gains: [3, M].
    """
    values, neutral = np.array(FAMILIES[family].values), FAMILIES[family].neutral
    margin = NormalDist().inv_cdf(NOTICED_WITH)
    enough = gains[EXPECTED] - margin * np.sqrt(gains[VARIANCE]) >= CERTAIN_NATS
    below, above = values[enough & (values < neutral)], values[enough & (values > neutral)]
    return Noticed(
        float(below.max()) if len(below) else nan, float(above.min()) if len(above) else nan
    )
