"""The ranks of torchrun; one process is a group of its own."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import torch
import torch.distributed as dist


def join() -> torch.device:
    """Join the process group (NCCL where there are GPUs, else gloo); this rank's device."""
    cuda = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if dist.is_initialized():
        return device
    backend = "nccl" if cuda else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        store = torch._C._distributed_c10d.HashStore()
        dist.init_process_group(backend, rank=0, world_size=1, store=store)
    return device


def leave() -> None:
    """Leave the group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def end(code: int = 0) -> NoReturn:
    """Leave the group, and end this rank's process without finalising the interpreter.

    A thread of gloo may still hold Python objects of a collective that is done, and aborts the
    process when it lets go of them while Python finalises (torch 2.11 and 2.13).
    """
    leave()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def share(value: Any) -> Any:
    """Rank 0's value on every rank."""
    if dist.get_world_size() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def gather(values: dict[int, Any]) -> dict[int, Any]:
    """Every rank's entries on every rank."""
    if dist.get_world_size() == 1:
        return values
    parts: list[dict[int, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, values)
    return {key: value for part in parts for key, value in part.items()}


def total(values: list[float]) -> list[float]:
    """The sum over the ranks of each value."""
    parts = gather({dist.get_rank(): values}).values()
    return [sum(column) for column in zip(*parts, strict=True)]


def mine(groups: list[list[int]]) -> list[list[int] | None]:
    """This rank's micro-batches of all, as many as any other rank's.

    A rank that has fewer gets None for the missing: it runs a forward that counts for nothing,
    since sharded layers are gathered in step.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    rounds = -(-len(groups) // world)
    padded: list[list[int] | None] = [*groups, *[None] * (rounds * world - len(groups))]
    return padded[rank::world]
