"""The tensors of a checkpoint under the names that the defined model has for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from torch import Tensor

from mismatch_lab.definitions.recipes import Recipe
from mismatch_lab.errors import NotDefinedError

_EXPERTS = re.compile(r"(?P<experts>.+\.experts)\.(?P<part>gate_up|down)_proj")

OLD_NAMES = {".mlp.": ".block_sparse_moe."}
"""Part of a name -> the same part in checkpoints that were written before it was renamed."""


class CheckpointTensors:
    """Reads tensors one at a time. A context manager: files are open inside it."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder = folder
        self.recipe = recipe
        self._files: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for path in sorted(self.folder.glob("*.safetensors")):
            file: Any = self._stack.enter_context(safe_open(path, framework="pt"))
            self._files |= dict.fromkeys(file.keys(), file)
        if not self._files:
            raise NotDefinedError(f"{self.folder} has no *.safetensors to read weights from.")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def has(self, name: str) -> bool:
        """Whether the checkpoint stores a tensor under this name or an old one."""
        return any(stored in self._files for stored in _spellings(name))

    def get(self, name: str) -> Tensor:
        """A tensor in the dtype that it is stored in.

        Raises:
            NotDefinedError: it is not there, or holds no floating point numbers.
        """
        for stored in _spellings(name):
            if stored in self._files:
                return self._read(stored)
        found = _EXPERTS.fullmatch(name)
        if found is None:
            raise NotDefinedError(f"The checkpoint has no tensor {name}.")
        gate, up, down = self.recipe.expert_names
        parts = (gate, up) if found["part"] == "gate_up" else (down,)
        return torch.stack(list(self._experts(found["experts"], parts)))

    def _experts(self, stem: str, parts: tuple[str, ...]) -> Iterator[Tensor]:
        """Of each expert its matrices, one under the other."""
        number = 0
        while self.has(f"{stem}.{number}.{parts[0]}.weight"):
            yield torch.cat([self.get(f"{stem}.{number}.{part}.weight") for part in parts])
            number += 1
        if not number:
            raise NotDefinedError(f"The checkpoint has no experts under {stem}.")

    def _read(self, stored: str) -> Tensor:
        tensor: Tensor = self._files[stored].get_tensor(stored)
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise NotDefinedError(f"{stored} is stored as {tensor.dtype}: quantised.")
        return tensor


def _spellings(name: str) -> Iterator[str]:
    yield name
    for part, old in OLD_NAMES.items():
        if part in name:
            yield name.replace(part, old)
