"""What alterations share: change attributes, tensors and hooks of a model, and change them back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

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
