"""Several engines side by side: asked at the same time, the rows of one request split over them.

Each row's seed follows from its place among all rows (`SamplingParams.first_row`), not from its
engine: so the answers are those of one engine, as far as its arithmetic does not depend on the
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Thread
from typing import TypeVar

from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.rollout import Answer, EngineSpec, Rollout, SamplingParams

Item = TypeVar("Item")
Found = TypeVar("Found")


def at_once(items: Sequence[Item], ask: Callable[[Item], Found]) -> list[Found]:
    """`ask` of every item, each in a thread of its own; what was found, in order.

    The threads are daemons: Ctrl-C does not wait for engines that are at work.

    Raises:
        BaseException: the first item's that failed, when all have ended.
    """
    if len(items) == 1:
        return [ask(items[0])]
    found: dict[int, Found] = {}
    errors: dict[int, BaseException] = {}

    def run(index: int) -> None:
        try:
            found[index] = ask(items[index])
        except BaseException as error:
            errors[index] = error

    threads = [Thread(target=run, args=(index,), daemon=True) for index in range(len(items))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[min(errors)]
    return [found[index] for index in range(len(items))]


def start_of(config: TrainConfig) -> Callable[[EngineSpec], Rollout]:
    """What starts one engine of the run."""
    if config.rollout.engine == "hf":
        from mismatch_lab.trainer.rollout_hf import HfRollout

        return HfRollout
    if config.rollout.engine == "vllm-server":
        from mismatch_lab.trainer.rollout_client import ServerRollout

        return ServerRollout
    from mismatch_lab.trainer.rollout_vllm import VllmRollout

    return VllmRollout


def start(begin: Callable[[EngineSpec], Rollout], specs: Sequence[EngineSpec]) -> list[Rollout]:
    """Engines, all started; where one cannot be, the others are closed."""
    started: list[Rollout] = []

    def start_one(spec: EngineSpec) -> Rollout:
        engine = begin(spec)
        started.append(engine)
        return engine

    try:
        return at_once(specs, start_one)
    except BaseException:
        for engine in started:
            engine.close()
        raise


def sample(
    engines: Sequence[Rollout],
    contexts: list[list[int]],
    max_new_tokens: list[int],
    sampling: SamplingParams,
) -> list[Answer]:
    """See `Rollout.sample`: answers of all rows, in order, whichever engine made them."""

    def ask(share: tuple[Rollout, slice]) -> list[Answer]:
        engine, rows = share
        drawn = replace(sampling, first_row=sampling.first_row + rows.start)
        return engine.sample(contexts[rows], max_new_tokens[rows], drawn)

    shares = [
        (engine, rows)
        for engine, rows in zip(engines, _slices(len(contexts), len(engines)), strict=True)
        if rows.start < rows.stop
    ]
    return [answer for answers in at_once(shares, ask) for answer in answers]


def _slices(n: int, parts: int) -> list[slice]:
    """Neighbours stay together (answers to one prompt share its cache); sizes differ by one."""
    return [slice(n * part // parts, n * (part + 1) // parts) for part in range(parts)]
