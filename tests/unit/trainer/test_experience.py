"""The roll-outs of a step, with engines that keep what they were asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mismatch_lab.checkpoints.config import EMBEDDED, resolve_model_path
from mismatch_lab.trainer import ranks, rollout_many
from mismatch_lab.trainer.config import TrainConfig, read_config
from mismatch_lab.trainer.experience import Experience, Sampler, batch_metrics
from mismatch_lab.trainer.planting import plan_run
from mismatch_lab.trainer.rollout import Answer, Rollout, SamplingParams
from mismatch_lab.trainer.tasks.base import Reward
from mismatch_lab.trainer.tasks.tokens import TaskTokeniser

CODE = "```python\nprint(1)\n```<|end|>"


@pytest.fixture(autouse=True)
def process_group() -> Iterator[None]:
    ranks.join()
    yield
    ranks.leave()


class Programmer(Rollout):
    """Writes a program in every turn, but in those rows that it never comes to an end."""

    def __init__(self, endless: frozenset[int] = frozenset()) -> None:
        self.code = TaskTokeniser(resolve_model_path(EMBEDDED))._encode_text(CODE)
        self.endless = endless
        self.seeds: dict[tuple[int, int, int], int] = {}
        """(step, turn, row among all) -> what it is drawn with."""

    def sample(
        self, contexts: list[list[int]], max_new_tokens: list[int], sampling: SamplingParams
    ) -> list[Answer]:
        answers = []
        for row, n in enumerate(max_new_tokens):
            self.seeds[sampling.step, sampling.turn, sampling.first_row + row] = sampling.row_seed(
                row
            )
            endless = sampling.first_row + row in self.endless
            ids = [9] * n if endless else self.code
            answers.append(Answer(ids, [-1.0] * len(ids), truncated=endless))
        return answers

    def close(self) -> None:
        pass


def a_config(**settings: object) -> TrainConfig:
    small = {"rollout.prompts": 2, "rollout.group": 3, "data.n_heldout": 1, "data.n_train": 8}
    return read_config(None, {**small, **settings})


def sampled(
    monkeypatch: pytest.MonkeyPatch, engines: list[Programmer], config: TrainConfig, steps: int = 1
) -> Experience:
    """Of the last step."""
    monkeypatch.setattr(rollout_many, "start", lambda *_: engines)
    with Sampler(plan_run(config), Path("nowhere")) as sampler:
        for step in range(steps):
            found = sampler.sample(step)
    assert found is not None
    return found


def test_every_turn_of_every_row_draws_numbers_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("pydantic_monty")
    one, two = [Programmer()], [Programmer(), Programmer()]
    config = a_config(task="retool", seed=7)
    experience = sampled(monkeypatch, one, config, steps=2)
    assert [len(episode.turns) for episode in experience.episodes] == [3] * 6
    seeds = one[0].seeds
    assert set(seeds) == {(s, t, r) for s in (0, 1) for t in (1, 2, 3) for r in range(6)}
    # A CPU's generator takes 32 bits of a seed: what it draws has to differ, not the seed alone.
    generators = [torch.Generator().manual_seed(seed) for seed in seeds.values()]
    assert len({torch.rand(1, generator=generator).item() for generator in generators}) == 36
    # Several engines share the rows, and each row keeps its numbers.
    sampled(monkeypatch, two, config, steps=2)
    assert two[0].seeds | two[1].seeds == seeds
    assert not set(two[0].seeds) & set(two[1].seeds)
    # Another run has others.
    other = [Programmer()]
    sampled(monkeypatch, other, a_config(task="retool", seed=8), steps=2)
    assert not set(other[0].seeds.values()) & set(seeds.values())


def test_the_share_of_answers_that_ran_out_of_room(monkeypatch: pytest.MonkeyPatch) -> None:
    config = a_config(task="gsm8k")
    found = sampled(monkeypatch, [Programmer(endless=frozenset({1, 2, 5}))], config)
    assert [episode.end for episode in found.episodes] == [
        "answered", "truncated", "truncated", "answered", "answered", "truncated",
    ]  # fmt: skip
    assert batch_metrics(found)["truncated_share"] == 3 / 6
    assert batch_metrics(found)["reward"] == 0.0


def test_rewards_keep_their_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sampled(monkeypatch, [Programmer()], a_config(task="gsm8k"))
    shares = [Reward(0.6, {}) for _ in found.scored]
    assert Experience(found.episodes, shares).rewards.tolist() == [0.6] * 6
