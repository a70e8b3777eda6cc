"""Names of many tensors in few words: the same one of all layers is one pattern."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")

_LAYER = re.compile(r"\.layers\.(\d+)(?=\.|$)")


def by_pattern(items: Iterable[Item], name_of: Callable[[Item], str]) -> dict[str, list[Item]]:
    """Items whose names differ by the layer only, under a name with all their layers.

    >>> list(by_pattern(["a.layers.0.b", "a.layers.1.b", "c"], str))
    ['a.layers.0-1.b', 'c']
    """
    alike: dict[str, list[Item]] = {}
    for item in items:
        alike.setdefault(_LAYER.sub(".layers.{}", name_of(item)), []).append(item)
    return {
        pattern.replace("{}", _ranges(_layers(map(name_of, members)))): members
        for pattern, members in alike.items()
    }


def summary(names: Iterable[str]) -> str:
    """Patterns of names, one after another."""
    return ", ".join(by_pattern(names, str))


def _layers(names: Iterable[str]) -> list[int]:
    return sorted({int(found.group(1)) for name in names if (found := _LAYER.search(name))})


def _ranges(numbers: list[int]) -> str:
    """0-2,5 for 0, 1, 2, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def only_projections(names: Iterable[str]) -> bool:
    """Whether all are matrices of projections, as adapters change them; False for none."""
    found = list(names)
    return bool(found) and all(re.search(r"_proj(\.weight)?$", name) for name in found)
