"""Repairs on trial: one part of a side put back as it should be, everything else left as it is.

A part is a module's code, dropout, or single tensors of the checkpoint.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn import functional

from mismatch_lab.errors import InputError

CONFIG = "config"
"""Stands for the configuration, which masks and caps are read from at every forward."""


def restore_stock(model: nn.Module, fresh: nn.Module, patterns: tuple[str, ...]) -> None:
    """Put modules of a fresh copy into a model, in place.

    Args:
        model: as its plugin left it.
        fresh: the same checkpoint, untouched.
        patterns: names of modules with `*` for any part, or `config`.

    Raises:
        InputError: no module has such a name.
    """
    names = [name for name, _ in fresh.named_modules() if name]
    matching = [n for n in names if any(fnmatchcase(n, pattern) for pattern in patterns)]
    if not matching and CONFIG not in patterns:
        raise InputError(f"No module of the model is named {' or '.join(patterns)}.")
    for name in matching:
        model.set_submodule(name, fresh.get_submodule(name))
    if CONFIG in patterns:
        _restore_config(model, fresh)


def _restore_config(model: nn.Module, fresh: nn.Module) -> None:
    stock = vars(fresh.config.get_text_config())  # type: ignore[union-attr, operator]
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "get_text_config"):
            vars(config.get_text_config()).update(stock)


def disable_dropout(model: nn.Module) -> None:
    """Every kind of dropout returns what it is given, for the rest of the process."""

    def unchanged(tensor: Tensor, *_args: object, **_kwargs: object) -> Tensor:
        return tensor

    functional.dropout = unchanged  # type: ignore[assignment]
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout", "hidden_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


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
