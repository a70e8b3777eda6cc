"""Rows that are split over engines come back as if one engine had had them all."""

import random
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

from mismatch_lab.errors import EngineError, InputError
from mismatch_lab.trainer.config import read_config
from mismatch_lab.trainer.rollout import Answer, EngineSpec, Rollout, SamplingParams, Transfer
from mismatch_lab.trainer.rollout_many import at_once, sample, start

SPEC = EngineSpec("folder", "float32", 512, "processed")


class Seeded(Rollout):
    """Each answer follows from the row's context and its seed alone, as vLLM's do."""

    def __init__(self, spec: EngineSpec = SPEC) -> None:
        if spec.log == "broken":
            raise EngineError("cannot start")
        self.rows = 0
        self.closed = False

    def sample(
        self, contexts: list[list[int]], max_new_tokens: list[int], sampling: SamplingParams
    ) -> list[Answer]:
        self.rows += len(contexts)
        answers = []
        for row, (context, n) in enumerate(zip(contexts, max_new_tokens, strict=True)):
            chance = random.Random(f"{context} {sampling.row_seed(row)}")
            ids = [chance.randrange(100) for _ in range(n)]
            answers.append(Answer(ids, [0.0] * n, truncated=True))
        return answers

    def transfer(self, folder: Path) -> Transfer:
        return Transfer(0, 0)

    def verify(self, folder: Path) -> Transfer:
        return Transfer(0, 0)

    def close(self) -> None:
        self.closed = True


CONTEXTS = [[1, 2], [1, 2], [1, 2], [3], [3], [3], [4]]
ROOM = [5, 4, 3, 5, 2, 5, 1]


@pytest.mark.parametrize(("n", "shares"), [(2, [3, 4]), (3, [2, 2, 3]), (9, [0] * 2 + [1] * 7)])
def test_answers_are_those_of_one_engine(n: int, shares: list[int]) -> None:
    sampling = SamplingParams(1.0, seed=3)
    whole = [answer.token_ids for answer in Seeded().sample(CONTEXTS, ROOM, sampling)]
    assert whole[0][:3] != whole[2]  # equal contexts, other seeds
    engines = [Seeded() for _ in range(n)]
    split = [answer.token_ids for answer in sample(engines, CONTEXTS, ROOM, sampling)]
    assert split == whole
    assert sorted(engine.rows for engine in engines) == shares


def test_all_are_asked_at_the_same_time() -> None:
    meeting = Barrier(3, timeout=20)  # nobody passes until all three are there
    assert sorted(at_once([0, 1, 2], lambda _: meeting.wait())) == [0, 1, 2]
    assert at_once([], lambda item: item) == []


def test_an_error_of_one_is_raised() -> None:
    def ask(item: int) -> int:
        if item:
            raise EngineError(f"engine {item} died")
        return item

    with pytest.raises(EngineError, match="engine 1 died"):
        at_once([0, 1, 2], ask)


def test_where_one_cannot_start_the_others_are_closed() -> None:
    made: list[Seeded] = []

    def begin(spec: EngineSpec) -> Rollout:
        made.append(engine := Seeded(spec))
        return engine

    with pytest.raises(EngineError, match="cannot start"):
        start(begin, [SPEC, replace(SPEC, log="broken"), SPEC])
    assert [engine.closed for engine in made] == [True, True]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"rollout.engine": "hf", "rollout.engines": 2}, "several engines are vLLM's"),
        ({"rollout.engines": 2, "rollout.devices": ["0"]}, "devices are 1 for engines = 2"),
    ],
)
def test_engines_that_cannot_be_had_are_refused(settings: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        read_config(None, settings)
