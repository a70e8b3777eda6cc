"""Errors of each way against the definition in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from mismatch_lab.remedies.attention_sinks.bench.problem import Problem, Shape, make_problem
from mismatch_lab.remedies.attention_sinks.bench.ways import Way, ways_for
from mismatch_lab.remedies.attention_sinks.reference import attention_reference

NAMES = ("out", "dq", "dk", "dv", "dsinks")
LIMIT = 0.01
"""Largest relative error, in the Frobenius norm; bfloat16 rounds to within 0.004."""


@dataclass(frozen=True)
class Accuracy:
    """One way on one problem."""

    way: str
    has_sinks: bool
    lengths: list[int]
    window: int | None
    errors: dict[str, float] = field(default_factory=dict)
    """Relative error of each of `NAMES`; a missing gradient is an error of 1."""
    note: str = ""
    """What went wrong, if it could not be tried."""

    @property
    def right(self) -> bool:
        """Within the limit; of a way without sinks, that it is seen to be wrong."""
        if not self.errors:
            return False
        within = all(error <= LIMIT for error in self.errors.values())
        return within if self.has_sinks else not within


def measure_accuracy(shape: Shape, tokens: int, window: int) -> Iterator[Accuracy]:
    """Every way on one document and, where it can, on several, with a window and without."""
    for seen in (None, window):
        for lengths in ([tokens], [tokens // 3, 1, tokens - tokens // 3 - 1]):
            problem = make_problem(shape, lengths, seen)
            true = problem.wide().run(attention_reference)
            for name, way in ways_for(problem.leaves[0]).items():
                if (way.packs or len(lengths) == 1) and (way.windows or seen is None):
                    yield _accuracy(name, way, problem, lengths, true)


def _accuracy(
    name: str, way: Way, problem: Problem, lengths: list[int], true: list[Tensor | None]
) -> Accuracy:
    row = name, way.sinks, lengths, problem.spec.window
    try:
        got = problem.run(way.attend)
        pairs = zip(NAMES, got, true, strict=True)
        return Accuracy(*row, errors={n: _relative(a, b) for n, a, b in pairs})
    except Exception as error:  # one way that fails is a result too
        return Accuracy(*row, note=f"{type(error).__name__}: {str(error)[:300]}")


def _relative(got: Tensor | None, true: Tensor | None) -> float:
    if got is None or true is None:
        return 1.0
    return float((got.double() - true).norm() / true.norm())
