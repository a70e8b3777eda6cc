"""What alterations share: change attributes, tensors and hooks of a model, and change them back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mismatch_lab.errors import InputError, NotApplicableError
from mismatch_lab.schema import Alteration


class Handle(Protocol):
    """What registering a hook returns."""

    def remove(self) -> None:
        """Take the hook off."""
        ...


@contextmanager
def attributes_set(changes: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """(object, attribute, value) in force inside the block; every attribute exists already."""
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    try:
        for owner, name, value in changes:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(kept):
            setattr(owner, name, value)


@contextmanager
def tensors_set(changes: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """(parameter or buffer, its values inside the block): the old storage comes back untouched.

    Raises:
        NotApplicableError: none of the values is another one.
    """
    if all(old.equal(new) for old, new in changes):
        raise NotApplicableError("The altered weights are the weights there are.")
    kept = [(old, old.data) for old, _ in changes]
    try:
        for old, new in changes:
            old.data = new.to(old)
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data


Change = tuple[Tensor, Callable[[Tensor], Tensor]]
"""A parameter or buffer, and what makes its values inside a block of those it has."""
WORKING_COPIES = 8
"""Sizes of the largest tensor, for what making its values takes: four times in float64."""


@contextmanager
def tensors_changed(model: nn.Module, changes: Sequence[Change]) -> Iterator[None]:
    """As `tensors_set`, whether or not the device has room for another copy of the tensors.

    Without it, values are made when the module that owns them runs, and kept until it has run.

    Raises:
        NotApplicableError: none of the values is another one.
    """
    sizes = [tensor.nbytes for tensor, _ in changes]
    needed = sum(sizes) + WORKING_COPIES * max(sizes)
    if needed < free_bytes(changes[0][0].device):
        with tensors_set([(tensor, make(tensor.data)) for tensor, make in changes]):
            yield
        return
    if all(tensor.equal(make(tensor.data)) for tensor, make in changes):
        raise NotApplicableError("The altered weights are the weights there are.")
    by_tensor = {id(tensor): (tensor, make) for tensor, make in changes}
    with hooks(_made_when_run(model, by_tensor)):
        yield


def free_bytes(device: torch.device) -> float:
    """What a GPU still has room for; endless elsewhere, where nobody can say."""
    if device.type != "cuda":
        return math.inf
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _made_when_run(model: nn.Module, changes: Mapping[int, Change]) -> Iterator[Handle]:
    whole: list[tuple[Tensor, Tensor]] = []

    def make_own(module: nn.Module, _arguments: object) -> None:
        for tensor, make in own[module]:
            whole.append((tensor, tensor.data))
            tensor.data = make(tensor.data).to(tensor)

    def restore(*_call: object) -> None:
        while whole:
            tensor, values = whole.pop()
            tensor.data = values

    own = {
        module: [changes[id(t)] for t in _own_tensors(module) if id(t) in changes]
        for module in model.modules()
    }
    for module in (module for module, found in own.items() if found):
        yield module.register_forward_pre_hook(make_own)
        yield module.register_forward_hook(restore, always_call=True)


def _own_tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


@contextmanager
def hooks(handles: Iterable[Handle]) -> Iterator[None]:
    """The hooks, off again after the block."""
    taken: list[Handle] = []
    try:
        taken.extend(handles)
        yield
    finally:
        for handle in taken:
            handle.remove()


def in_layers(name: str, alteration: Alteration) -> bool:
    """Whether a parameter or module belongs to the layers that are altered."""
    if alteration.layers is None:
        return True
    parts = name.split(".")
    at = parts.index("layers") if "layers" in parts else -1
    return at >= 0 and int(parts[at + 1]) in alteration.layers


def named_tensors(model: nn.Module) -> Mapping[str, Tensor]:
    """Parameters and buffers by name, tied ones once."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def number(alteration: Alteration) -> float:
    """The alteration's value as a number.

    Raises:
        InputError: it has none.
    """
    value = alteration.value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"Alteration {alteration.name} needs a number, not {value!r}.")
    return float(value)


def whole(alteration: Alteration) -> int:
    """The alteration's value as a whole number of at least 0.

    Raises:
        InputError: it is none.
    """
    value = number(alteration)
    if value < 0 or value != int(value):
        raise InputError(f"Alteration {alteration.name} needs a whole number, not {value:g}.")
    return int(value)


def factor(alteration: Alteration) -> float:
    """The alteration's value as a factor.

    Raises:
        InputError: it is no number.
        NotApplicableError: it is 1.
    """
    value = number(alteration)
    if value == 1:
        raise NotApplicableError(f"{alteration.name}: a factor of 1 changes nothing.")
    return value


def text(alteration: Alteration, default: str | None = None) -> str:
    """The alteration's value as text.

    Raises:
        InputError: it has none and there is no default.
    """
    value = alteration.value if alteration.value is not None else default
    if not isinstance(value, str):
        raise InputError(f"Alteration {alteration.name} needs a name, not {value!r}.")
    return value
