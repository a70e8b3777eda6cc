"""What is published of the policy, held against the checkpoint that the run began with.

An engine that misses a tensor may start on memory that nobody wrote (vLLM, and the biases by which
routers choose), and a tensor in a coarser dtype is rounded without a word.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mismatch_lab.checkpoints.config import resolve_model_path
from mismatch_lab.checkpoints.tensors import Stored, stored_tensors
from mismatch_lab.engines.whole_state import TORCH_KINDS
from mismatch_lab.errors import EngineError, few


class Source:
    """The tensors of the checkpoint that the run began with."""

    def __init__(self, model: str, dtype: torch.dtype) -> None:
        """Args:
        model: checkpoint folder or hub name, of which the weights are on this machine.
        dtype: of the run.

        Raises:
            InputError: it has no safetensors.
        """
        self.model = model
        self.dtype = dtype
        self.tensors = stored_tensors(_folder(model))
        sizes: Counter[str] = Counter()
        for stored in self.tensors.values():
            sizes[stored.kind] += math.prod(stored.shape)
        self._most = sizes.most_common(1)[0][0]

    def dtype_of(self, name: str) -> torch.dtype | None:
        """What a tensor is published in: the run's dtype, or the checkpoint's where that is wider.

        What the checkpoint does not hold under this name (experts that transformers fuses) is as
        most of its elements are. None for what has no floating point type.
        """
        stored = self.tensors.get(name)
        kind = TORCH_KINDS.get(self._most if stored is None else stored.kind)
        return None if kind is None else torch.promote_types(kind, self.dtype)

    def check(self, folder: Path, bare: Any) -> None:
        """Compare names, shapes and dtypes of what was published.

        Args:
            folder: the checkpoint that was written.
            bare: the transformers model: it knows what is tied, and what it leaves out.

        Raises:
            EngineError: they are not the source's, with the names that differ.
        """
        made, tied = stored_tensors(str(folder)), set(bare.all_tied_weights_keys)
        ignored = [re.compile(pattern) for pattern in bare._keys_to_ignore_on_load_unexpected or ()]
        wanted = {n for n in self.tensors if not any(one.search(n) for one in ignored)}
        shared = sorted(made.keys() & self.tensors.keys())
        differences = {
            "missing": sorted(wanted - made.keys() - tied),
            "not in the checkpoint": sorted(made.keys() - self.tensors.keys() - tied),
            "of another shape": [n for n in shared if made[n].shape != self.tensors[n].shape],
            "of another dtype": [n for n in shared if not self._is_as_wide(n, made)],
        }
        found = [f"{what}: {few(names)}" for what, names in differences.items() if names]
        if found:
            raise EngineError(
                f"What the trainer publishes is not the model of {self.model}: {'; '.join(found)}.",
                "An engine that starts on it need not say so. Its modelling code in transformers "
                "holds other tensors than the checkpoint; report the architecture.",
            )

    def _is_as_wide(self, name: str, made: Mapping[str, Stored]) -> bool:
        wanted = self.dtype_of(name)
        return wanted is None or TORCH_KINDS.get(made[name].kind) == wanted


def _folder(model: str) -> str:
    """Where the files are that transformers has read."""
    path = resolve_model_path(model)
    if Path(path).is_dir():
        return path
    from huggingface_hub import snapshot_download

    return str(snapshot_download(path, local_files_only=True))
