"""Tensors, lists and numbers of a dump as arrays no larger than a row may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.errors import InputError
from mismatch_lab.ingest.rows import MOST_ROW_TOKENS

MOST_CHOICES = 2**11
"""Experts that are chosen for one token, in all layers together: 61 layers of 8 are 488."""


def as_array(where: str, name: str, values: Any, most: int = MOST_ROW_TOKENS) -> NDArray[Any]:
    """An array of at least one axis.

    Args:
        where: for people.
        name: of the column.
        values: a tensor, a list or a number.
        most: values that it may have.

    Raises:
        InputError: too many values, or none that are numbers.
    """
    try:
        if hasattr(values, "detach"):
            if values.numel() > most:
                raise InputError(f"{where}: {name} has {values.numel()} values.")
            values = values.detach()
            values = (values.float() if values.is_floating_point() else values).numpy()
        found = np.atleast_1d(np.asarray(values))
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise InputError(f"{where}: {name} is no list of numbers: {error}.") from error
    if found.dtype.kind not in "biuf":
        raise InputError(f"{where}: {name} is no list of numbers.")
    return found


def as_number(where: str, name: str, held: Mapping[str, Any]) -> int:
    """A whole number of a dictionary.

    Raises:
        InputError: there is none of the name, or it is something else.
    """
    if held.get(name) is None:
        raise InputError(f"{where} has no {name}.")
    found = as_array(where, name, held[name])
    if found.size != 1 or found.dtype.kind not in "iu":
        raise InputError(f"{where}: {name} is no whole number.")
    return int(found.reshape(-1)[0])


def as_choices(where: str, name: str, values: Any, tokens: int) -> NDArray[np.int16]:
    """[T, L, K] experts chosen where token t is the input; -1 for the last token, which is none.

    Args:
        where: for people.
        name: of the column.
        values: [T - 1, L, K] or [T, L, K].
        tokens: T.

    Raises:
        InputError: another shape, or numbers that are no experts.
    """
    found = as_array(where, name, values, MOST_ROW_TOKENS * MOST_CHOICES)
    if found.ndim != 3 or len(found) not in (tokens - 1, tokens) or found.dtype.kind not in "iu":
        raise InputError(
            f"{where}: {name} is {found.dtype} of shape {list(found.shape)}, for {tokens} tokens."
        )
    if found.size and int(found.max()) > np.iinfo(np.int16).max:
        raise InputError(f"{where}: {name} has {int(found.max())}, which is no expert.")
    whole = np.full((tokens, *found.shape[1:]), -1, np.int16)
    whole[: len(found)] = np.maximum(found, -1)
    return whole
