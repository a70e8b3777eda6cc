"""Repairs on trial: one part of a side put back as it should be, everything else left as it is."""

from __future__ import annotations

from fnmatch import fnmatchcase

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
