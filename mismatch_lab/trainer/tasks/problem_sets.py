"""Rows to problems, in two splits that share none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random

from mismatch_lab.errors import InputError
from mismatch_lab.trainer.tasks.base import Problem, ProblemSet, Row
from mismatch_lab.trainer.tasks.sources import Source, read_rows

HELDOUT_PERCENT = 10


def load(source: Source, problem_of: Callable[[Row], Problem | None]) -> ProblemSet:
    """Problems of a file or a hub dataset; rows for which `problem_of` is None are dropped.

    Raises:
        InputError: a row is wrong (its number is named), or a split is empty.
    """
    train_rows, heldout_rows = read_rows(source)
    train = _convert(train_rows, problem_of, source.name)
    heldout = _convert(heldout_rows or [], problem_of, source.heldout or source.name)
    n_given = len(train_rows) + len(heldout_rows or [])
    if heldout_rows is None:
        heldout = [problem for problem in train if is_heldout(problem)]
    made = assemble(train, heldout, source, source.name)
    n_unique = len({p.key for p in train} | {p.key for p in heldout})
    return ProblemSet(made.train, made.heldout, made.origin, n_given - n_unique)


def is_heldout(problem: Problem) -> bool:
    """Whether a tenth that is chosen by a hash holds this problem: the same on every machine."""
    return int(problem.key, 16) % 100 < HELDOUT_PERCENT


def assemble(
    train: Iterable[Problem], heldout: Iterable[Problem], source: Source, origin: str
) -> ProblemSet:
    """A set from two lists, each problem once; what is held out is taken out of `train`.

    Raises:
        InputError: nothing is left to train on, or nothing held out.
    """
    kept = {problem.key: problem for problem in heldout}
    rest = {problem.key: problem for problem in train if problem.key not in kept}
    if not kept or not rest:
        empty = "training" if kept else "held-out"
        raise InputError(
            f"{origin} leaves no {empty} problems.",
            "Give more rows, or a second file of held-out ones that does not hold all of them.",
        )
    n_train = source.n_train or len(rest)
    return ProblemSet(
        list(rest.values())[:n_train], list(kept.values())[: source.n_heldout], origin
    )


def batch_at(problems: Sequence[Problem], *, step: int, size: int, seed: int) -> list[Problem]:
    """The problems of one step, from `seed` and `step` alone: a resumed run goes on as it was.

    Every epoch has an order of its own and shows every problem once.
    """
    places = range(step * size, (step + 1) * size)
    orders = {
        epoch: _order(len(problems), epoch, seed) for epoch in {p // len(problems) for p in places}
    }
    return [problems[orders[p // len(problems)][p % len(problems)]] for p in places]


def _order(n: int, epoch: int, seed: int) -> list[int]:
    order = list(range(n))
    Random(f"order:{seed}:{epoch}").shuffle(order)
    return order


def _convert(
    rows: Sequence[Row], problem_of: Callable[[Row], Problem | None], name: str
) -> list[Problem]:
    problems = []
    for number, row in enumerate(rows, start=1):
        try:
            problem = problem_of(row)
        except InputError as error:
            raise InputError(f"Row {number} of {name}: {error.problem}", error.hint) from error
        if problem is not None:
            problems.append(problem)
    return problems
