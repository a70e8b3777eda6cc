"""The tensors of a checkpoint folder, read with numpy alone: names, shapes, values."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.checkpoints.config import check_model_path, checkpoint_state, resolve_model_path
from mismatch_lab.errors import InputError

_KINDS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
"""Floating point types of the format; bfloat16 is the upper half of a float32."""


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies in a file."""

    path: Path
    kind: str
    """As the format names it: F32, BF16, U8, …"""
    shape: tuple[int, ...]
    start: int
    """Byte in the file."""
    stop: int

    def raw(self) -> NDArray[np.uint8]:
        """Its bytes, mapped, not read."""
        if self.stop == self.start:
            return np.zeros(0, np.uint8)
        return np.memmap(self.path, np.uint8, "r", self.start, (self.stop - self.start,))

    def values(self) -> NDArray[np.float32]:
        """Its values in single precision.

        Raises:
            InputError: not a floating point tensor.
        """
        if self.kind not in _KINDS:
            raise InputError(
                f"{self.path} holds tensors of type {self.kind}, which have no values."
            )
        stored = np.frombuffer(self.raw().tobytes(), _KINDS[self.kind])
        if self.kind == "BF16":
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(np.float32).reshape(self.shape)


def stored_tensors(model: str) -> dict[str, Stored]:
    """Checkpoint name -> where it lies, of every `*.safetensors` of a checkpoint folder.

    Raises:
        InputError: no such folder, no such files in it, or a damaged one.
    """
    folder = Path(resolve_model_path(model))
    if not folder.is_dir():
        raise InputError(
            f"Checkpoint folder {model} does not exist.",
            "Weights before and after an update are compared tensor by tensor: name two folders "
            "with config.json and *.safetensors.",
        )
    check_model_path(str(folder))
    tensors: dict[str, Stored] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, (kind, shape, start, stop) in _entries(path).items():
            tensors[name] = Stored(path, kind, shape, start, stop)
    if not tensors:
        raise InputError(f"Checkpoint folder {model} holds no *.safetensors.")
    return tensors


def tensor_names(model: str) -> tuple[str, ...] | None:
    """Names of a checkpoint's tensors; None where they are not known (a hub name, no files)."""
    try:
        return tuple(stored_tensors(model))
    except InputError:
        return None


def check_same_tensors(before: str, after: str) -> None:
    """Raise InputError unless two checkpoints hold tensors of the same names and shapes."""
    old, new = stored_tensors(before), stored_tensors(after)
    alone = sorted(old.keys() ^ new.keys())
    if alone:
        holder = before if alone[0] in old else after
        raise InputError(
            f"{before} and {after} are of different architectures: only {holder} has {alone[0]}.",
            "--weights-before names the same model one update earlier.",
        )
    for name in sorted(old):
        if old[name].shape != new[name].shape:
            raise InputError(
                f"{name} has shape {old[name].shape} in {before} and {new[name].shape} in {after}.",
                "--weights-before names the same model one update earlier.",
            )


def differing_names(before: str, after: str) -> tuple[str, ...]:
    """Names of the tensors whose bits differ, sorted; both checkpoints hold the same names.

    Of a tensor that they store in different types it is the bits of its values in float32. Two
    checkpoints are read once a process, as long as neither changes: they may have terabytes.
    """
    return _differing(before, after, *map(state_key, (before, after)))


@lru_cache
def _differing(before: str, after: str, *_states: Hashable) -> tuple[str, ...]:
    old, new = stored_tensors(before), stored_tensors(after)
    return tuple(name for name in sorted(new) if not _same_bits(old[name], new[name]))


def state_key(model: str) -> Hashable:
    """What a checkpoint folder holds by sizes and times: it is read again when one has changed."""
    return tuple(checkpoint_state(model).items())


def _same_bits(old: Stored, new: Stored) -> bool:
    if old.kind == new.kind:
        return np.array_equal(old.raw(), new.raw())
    if not {old.kind, new.kind} <= _KINDS.keys():
        return False
    return np.array_equal(old.values().view(np.uint32), new.values().view(np.uint32))


def _entries(path: Path) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """name -> (type, shape, first byte, byte after the last), by the format's header."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
    except (ValueError, MemoryError, OverflowError) as error:
        raise InputError(f"{path} is not a safetensors file: {error}.") from error
    header.pop("__metadata__", None)
    base = 8 + length
    entries = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        shape = tuple(int(size) for size in entry["shape"])
        if base + stop > path.stat().st_size or stop - start < math.prod(shape) // 2:
            raise InputError(f"{path} is cut short at {name}.")
        entries[name] = (str(entry["dtype"]), shape, base + start, base + stop)
    return entries
