"""Where problems come from: generated here, a JSON-lines file, or a dataset on the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mismatch_lab.errors import InputError, MissingDependencyError

GENERATED = "generated"
TEST_SPLIT = "test"

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Source:
    """Which problems, and how many."""

    name: str = GENERATED
    """`generated`, a file that ends in .jsonl, or what `datasets` loads: a hub name (`owner/name`,
    `owner/name:config`) or a folder of its files."""
    heldout: str | None = None
    """A second .jsonl file, or a split on the hub; None: the hub's `test`, else a tenth of all."""
    n_train: int = 4096
    """At most so many (0: all there are)."""
    n_heldout: int = 200
    seed: int = 0
    """Of generated training problems. The held-out ones are the same for every seed."""


def read_rows(source: Source) -> tuple[Rows, Rows | None]:
    """Training rows and held-out rows of a file or a hub dataset; None: to be split off.

    Raises:
        InputError: what `source` names is not there or cannot be read.
        MissingDependencyError: a hub name is given and `datasets` is not installed.
    """
    if source.name.endswith((".jsonl", ".json")):
        heldout = None if source.heldout is None else _file_rows(source.heldout)
        return _file_rows(source.name), heldout
    return _hub_rows(source)


def _file_rows(name: str) -> Rows:
    path = Path(name)
    if not path.is_file():
        raise InputError(f"There is no file {name}.", "Give a JSON-lines file: one object a line.")
    return list(_parsed(path))


def _parsed(path: Path) -> Iterator[dict[str, Any]]:
    # Not splitlines(): it also splits at U+2028 and its like, which JSON allows inside a string.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"Line {number} of {path} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"Line {number} of {path} is no JSON object.", "Write one per line.")
        yield row


def _hub_rows(source: Source) -> tuple[Rows, Rows | None]:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            f"Loading {source.name!r} from the hub needs `datasets`, which is not installed.",
            "pip install 'mismatch-lab[hub]', or give the problems as a .jsonl file.",
        ) from error
    name, _, config = source.name.partition(":")
    try:
        loaded: Any = datasets.load_dataset(name, config or None)
    except Exception as error:  # of many kinds: no network, no such name, no such config
        lines = str(error).strip().splitlines() or [""]
        raise InputError(
            f"The dataset {source.name!r} cannot be loaded: {type(error).__name__}: {lines[0]}",
            "Check the name and the network, or download it and give it as a .jsonl file.",
        ) from error
    heldout = source.heldout or (TEST_SPLIT if TEST_SPLIT in loaded else None)
    for split in ("train", heldout):
        if split is not None and split not in loaded:
            raise InputError(
                f"The dataset {source.name!r} has no split {split!r}.",
                f"It has: {', '.join(sorted(loaded))}.",
            )
    return list(loaded["train"]), None if heldout is None else list(loaded[heldout])
