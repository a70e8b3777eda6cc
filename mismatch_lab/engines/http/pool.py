"""Several servers share the work; each has only so many requests at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from mismatch_lab.engines.base import Progress
from mismatch_lab.engines.http.server import Server

Item = TypeVar("Item")
Result = TypeVar("Result")


async def share(
    servers: Sequence[Server],
    items: Sequence[Item],
    do: Callable[[Server, int, Item], Awaitable[Result]],
    concurrency: int,
    progress: Progress,
) -> list[tuple[int, Result]]:
    """For each item, in order: which server did it, and what came of it.

    Whoever is free takes the next. The first error ends all.
    """
    waiting = deque(enumerate(items))
    done: dict[int, tuple[int, Result]] = {}

    async def work(number: int, server: Server) -> None:
        while waiting:
            at, item = waiting.popleft()
            done[at] = (number, await do(server, at, item))
            progress(len(done), len(items))

    try:
        async with asyncio.TaskGroup() as group:
            for number, server in enumerate(servers):
                for _ in range(concurrency):
                    group.create_task(work(number, server))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [done[at] for at in range(len(items))]
