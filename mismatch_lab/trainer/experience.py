"""Roll-outs with their rewards, and the held-out accuracy of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mismatch_lab.checkpoints.config import resolve_model_path
from mismatch_lab.remedies import load_fixes
from mismatch_lab.trainer import ranks, rollout_many
from mismatch_lab.trainer.planting import Plan
from mismatch_lab.trainer.rollout import (
    Answer,
    EngineSpec,
    Record,
    Rollout,
    SamplingParams,
)
from mismatch_lab.trainer.tasks import load_task
from mismatch_lab.trainer.tasks.base import Problem, Reward
from mismatch_lab.trainer.tasks.episodes import Episode, roll_out
from mismatch_lab.trainer.tasks.problem_sets import batch_at
from mismatch_lab.trainer.tasks.sources import Source
from mismatch_lab.trainer.tasks.tokens import TaskTokeniser


@dataclass(frozen=True)
class Experience:
    """Answers of a group stand next to each other."""

    episodes: list[Episode[Answer]]
    scored: list[Reward]

    @property
    def rewards(self) -> Tensor:
        """[R] float64: a reward such as 0.6 is no float32, nor is the mean of eight of them."""
        return torch.tensor([reward.value for reward in self.scored], dtype=torch.float64)


class Sampler:
    """The task and, on rank 0, the engines. Use as a context manager."""

    def __init__(self, plan: Plan, out: Path) -> None:
        self.plan = plan
        self.config = plan.config
        self.out = out
        self.task = load_task(plan.config.task, _lists_as_tuples(plan.config.data.options))
        self.tokeniser = TaskTokeniser(resolve_model_path(plan.config.model))
        data = plan.config.data
        source = Source(data.source, data.heldout, data.n_train, data.n_heldout, plan.config.seed)
        self.problems = self.task.problems(source)
        self.engines: list[Rollout] = []

    def __enter__(self) -> Sampler:
        if dist.get_rank() == 0:
            self.engines = rollout_many.start(rollout_many.start_of(self.config), self._specs())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.task.close()
        for engine in self.engines:
            engine.close()

    def sample(self, step: int) -> Experience | None:
        """The roll-outs of one step; None where there is no engine (ranks other than 0)."""
        if not self.engines:
            return None
        settings = self.config.rollout
        batch = batch_at(
            self.problems.train, step=step, size=settings.prompts, seed=self.config.seed
        )
        sampling = replace(
            SamplingParams(settings.temperature, settings.top_p, record=self._record()),
            seed=self.config.seed,
            step=step,
            **self.plan.sampling,  # type: ignore[arg-type]
        )
        return self._run([p for p in batch for _ in range(settings.group)], sampling)

    def evaluate(self) -> dict[str, float]:
        """Greedy reward on the held-out problems, and of each kind of them."""
        values: dict[str, float] = {}
        if self.engines:
            found = self._run(self.problems.heldout, SamplingParams(0.0))
            values["heldout/reward"] = _mean([r.value for r in found.scored])
            values["heldout/n"] = len(found.scored)
            values["heldout/truncated_share"] = _truncated_share(found)
            for kind in sorted({e.problem.kind for e in found.episodes}):
                pairs = zip(found.episodes, found.scored, strict=True)
                values[f"heldout/{kind}"] = _mean(
                    [r.value for e, r in pairs if e.problem.kind == kind]
                )
        shared: dict[str, float] = ranks.share(values)
        return shared

    def _run(self, problems: Sequence[Problem], sampling: SamplingParams) -> Experience:
        turn = 0

        def sample(contexts: list[list[int]], max_new_tokens: list[int]) -> list[Answer]:
            nonlocal turn
            turn += 1
            return rollout_many.sample(
                self.engines, contexts, max_new_tokens, replace(sampling, turn=turn)
            )

        episodes = roll_out(
            self.task,
            problems,
            self.tokeniser,
            sample,
            new_tokens=self.config.rollout.new_tokens or self.task.new_tokens,
            context_length=self.config.rollout.context_length,
        )
        return Experience(episodes, [self.task.reward(e.problem, e.answers) for e in episodes])

    def _record(self) -> Record:
        asked = load_fixes(self.config.fixes).records
        return Record(routing="routing" in asked, support="support" in asked)

    def _specs(self) -> list[EngineSpec]:
        """Of each engine."""
        rollout = self.config.rollout
        spec = EngineSpec(
            resolve_model_path(self.config.model),
            self.config.dtype,
            rollout.context_length,
            rollout.logprob_space,
            dict(rollout.args),
            self.plan.engine_fault,
            fixes=load_fixes(self.config.fixes).in_engine,
        )
        n = len(rollout.urls) or rollout.engines
        devices, urls = rollout.devices or (None,) * n, rollout.urls or ("",) * n
        names = ["engine"] if n == 1 else [f"engine-{index}" for index in range(n)]
        return [
            replace(spec, log=str(self.out / "logs" / f"{name}.log"), devices=seen, url=url)
            for name, seen, url in zip(names, devices, urls, strict=True)
        ]


def batch_metrics(experience: Experience) -> dict[str, float]:
    """Reward and its parts, lengths, and the share of episodes that ran out of room."""
    rewards = [r.value for r in experience.scored]
    lengths = [sum(e.sampled) for e in experience.episodes]
    values = {
        "reward": _mean(rewards),
        "tokens_sampled": sum(lengths),
        "tokens": sum(len(e.token_ids) for e in experience.episodes),
        "answer_tokens": _mean([float(n) for n in lengths]),
        "turns": _mean([float(len(e.turns)) for e in experience.episodes]),
        "truncated_share": _truncated_share(experience),
    }
    for part in experience.scored[0].parts:
        values[f"reward/{part}"] = _mean([r.parts[part] for r in experience.scored])
    return values


def _truncated_share(experience: Experience) -> float:
    return _mean([float(episode.ran_out_of_room) for episode in experience.episodes])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _lists_as_tuples(options: dict[str, Any]) -> dict[str, Any]:
    """TOML has lists; the options of tasks are tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
