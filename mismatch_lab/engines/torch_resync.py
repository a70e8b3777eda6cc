"""A repair on trial: single tensors of a transformers model loaded again from its checkpoint."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from mismatch_lab.errors import InputError

_OF_EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")
"""One expert's matrix, in checkpoints that store what the model holds fused."""


@torch.no_grad()
def copy_tensors(model: nn.Module, fresh: nn.Module, names: tuple[str, ...]) -> None:
    """Copy tensors of an untouched copy into a model, in place; tied ones change together.

    Args:
        model: as its plugin left it.
        fresh: the same checkpoint, untouched.
        names: as the checkpoint has them.

    Raises:
        InputError: the model has no such tensor, or has it in another shape.
    """
    for name in names:
        into, source = _part(model, name), _part(fresh, name)
        if into.shape != source.shape:
            raise InputError(
                f"{name} cannot be loaded again: the plugin left it with shape "
                f"{tuple(into.shape)}, the checkpoint has {tuple(source.shape)}."
            )
        into.copy_(source.to(into))


def _part(model: nn.Module, name: str) -> Tensor:
    """The parameter or buffer of that name, or the part of a fused one; a view, not a copy."""
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    if name in tensors:
        return tensors[name].data
    single = _OF_EXPERT.fullmatch(name)
    fused = f"{single[1]}.{'down' if single[3] == 'down' else 'gate_up'}_proj" if single else name
    if single is None or fused not in tensors:
        raise InputError(f"The model has no tensor {name!r} to load again.")
    of_expert = tensors[fused].data[int(single[2])]
    half = of_expert.shape[0] // 2
    rows = {"gate": slice(0, half), "up": slice(half, None), "down": slice(None)}[single[3]]
    return of_expert[rows]
