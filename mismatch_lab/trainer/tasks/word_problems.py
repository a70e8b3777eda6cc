"""The embedded problems: those that mini-gpt-oss was trained on, as problems of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mismatch_lab.errors import InputError
from mismatch_lab.mini import problems as mini
from mismatch_lab.trainer.tasks.base import Problem, ProblemSet, Split
from mismatch_lab.trainer.tasks.problem_sets import assemble
from mismatch_lab.trainer.tasks.sources import Source

HELDOUT_SEED = 0
ALL = 4096
"""Generated problems to train on where a source asks for all there are."""


def generated(
    source: Source, levels: Sequence[int], problem_of: Callable[[mini.Problem], Problem]
) -> ProblemSet:
    """Generated problems, each as `problem_of` makes it.

    A level that is listed twice is drawn twice as often. The splits are mini's own, so that what
    is held out here was also held out when the model was trained.

    Raises:
        InputError: there is no such level, or no problems are asked for.
    """
    if not levels or set(levels) - set(mini.LEVELS):
        raise InputError(f"There are levels {mini.LEVELS}, not {tuple(levels)}.")

    def draw(n: int, seed: int, split: Split) -> Iterator[Problem]:
        return map(problem_of, mini.generate(n, seed=seed, split=split, levels=levels))

    return assemble(
        draw(source.n_train or ALL, source.seed, "train"),
        draw(source.n_heldout, HELDOUT_SEED, "heldout"),
        source,
        f"generated word problems, levels {list(levels)}, seed {source.seed}",
    )
