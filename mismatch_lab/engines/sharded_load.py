"""One rank reads the checkpoint and the others get their shards of it: a host holds one copy.

The model that is sharded is built without memory on every rank. A trainer's faults and fixes have
changed it and rank 0's whole copy alike, so that what rank 0 sends is what a lone process has.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from mismatch_lab.errors import EngineError


def fill(model: nn.Module, source: nn.Module | None, device: torch.device) -> None:
    """Give a sharded model on the meta device its values. All ranks call it.

    Args:
        model: a transformers model or a wrapper of one; sharded; on every rank.
        source: the same modules with their values, not sharded; rank 0's, None on the others.
        device: of this rank.

    Raises:
        EngineError: something is left without a value.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's own use of a deprecated name
        set_model_state_dict(
            model,
            {} if source is None else source.state_dict(),
            options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True),
        )
    # Buffers such as rotary frequencies are in no state dict.
    buffers: list[dict[str, Tensor] | None]
    buffers = [None if source is None else {n: b.cpu() for n, b in source.named_buffers()}]
    dist.broadcast_object_list(buffers, src=0)
    for name, value in (buffers[0] or {}).items():
        owner, _, leaf = name.rpartition(".")
        model.get_submodule(owner)._buffers[leaf] = value.to(device)
    bare: Any = next(module for module in model.modules() if hasattr(module, "tie_weights"))
    bare.tie_weights()  # loading made two tensors of what the model has once
    if left := sorted(name for name, tensor in _tensors(model) if tensor.is_meta):
        raise EngineError(
            f"{left[0]} has no value after loading on several ranks ({len(left)} such tensors).",
            "Use one rank, or report the model's architecture.",
        )


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers, and tensors that are plain attributes."""
    yield from model.named_parameters()
    yield from model.named_buffers()
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, Tensor):
                yield f"{name}.{attribute}", value
