"""Checkpoints one update apart, and engines that an update reached only in part."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mismatch_lab.errors import InputError
from mismatch_lab.faults.modules import is_vllm

if TYPE_CHECKING:
    from torch import Tensor

ADAPTED = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight")
RANK = 4


def perturb(before: Path, after: Path, strength: float, seed: int, low_rank: bool = False) -> None:
    """Write the checkpoint `before` as it is one update later.

    Args:
        before: a checkpoint folder.
        after: the folder to write; it must not exist.
        strength: how far each tensor moves, as a share of its standard deviation.
        seed: of the update's direction.
        low_rank: only the attention projections move, by a product of rank 4 (a LoRA adapter).

    Raises:
        InputError: `after` exists, or `before` has no safetensors.
    """
    import torch
    from safetensors.torch import load_file, save_file

    if after.exists():
        raise InputError(f"{after} exists.", "Name a new folder.")
    shards = sorted(before.glob("*.safetensors"))
    if not shards:
        raise InputError(f"{before} holds no safetensors.")
    shutil.copytree(before, after)
    generator = torch.Generator().manual_seed(seed)
    for shard in shards:
        tensors = load_file(shard)
        moved = {
            name: _moved(name, tensor, strength, generator, low_rank)
            for name, tensor in tensors.items()
        }
        save_file(moved, after / shard.name, metadata={"format": "pt"})


def _moved(name: str, old: Tensor, strength: float, generator: Any, low_rank: bool) -> Tensor:
    import torch

    if low_rank and not name.endswith(ADAPTED):
        return old
    if low_rank:
        b = torch.randn(old.shape[0], RANK, generator=generator)
        a = torch.randn(RANK, old.shape[1], generator=generator)
        step = b @ a / RANK**0.5
    else:
        step = torch.randn(old.shape, generator=generator)
    wide = old.float()
    spread = wide.std() if wide.numel() > 1 else wide.abs()
    moved: Tensor = (wide + strength * spread * step).to(old.dtype)
    return moved.contiguous()


def read_tensors(folder: Path, keep: Callable[[str], bool]) -> dict[str, Tensor]:
    """The tensors of a checkpoint whose names `keep` accepts.

    Raises:
        InputError: there are none.
    """
    from safetensors import safe_open

    found: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in filter(keep, file.keys())}
    if not found:
        raise InputError(f"{folder} holds none of the tensors that were to stay old.")
    return found


def put_back(model: Any, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Load tensors by their checkpoint names into an engine's model, before kernels repack it."""
    named = dict(tensors)
    if is_vllm(model):
        model.load_weights(named.items())
        return
    state = model.state_dict()
    for name, tensor in named.items():
        state[name].copy_(tensor.to(state[name].dtype))


def model_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def put_back_all(model: Any, before: Path) -> None:
    """Every tensor of the engine's model as in another checkpoint."""
    if is_vllm(model):
        put_back(model, read_tensors(before, lambda _name: True).items())
        return
    for name, parameter in old_parameters(model, before).items():
        model.get_parameter(name).data.copy_(parameter)


def old_parameters(model: Any, before: Path) -> dict[str, Tensor]:
    """The parameters of a transformers model as in another checkpoint, by the module's names."""
    from transformers import AutoModelForCausalLM

    old = AutoModelForCausalLM.from_pretrained(before, dtype=model.dtype)
    return {name: parameter.data for name, parameter in old.named_parameters()}


@contextmanager
def with_tensors(model: Any, tensors: dict[str, Tensor]) -> Iterator[None]:
    """Inside the block a transformers model's parameters hold other tensors."""
    kept = {name: model.get_parameter(name).data for name in tensors}
    try:
        for name, tensor in tensors.items():
            model.get_parameter(name).data = tensor
        yield
    finally:
        for name, tensor in kept.items():
            model.get_parameter(name).data = tensor
