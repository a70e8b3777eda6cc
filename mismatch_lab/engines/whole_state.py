"""The tensors of a checkpoint folder as torch's, in the types that they are stored in."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mismatch_lab.checkpoints.tensors import Stored, stored_tensors
from mismatch_lab.errors import InputError

TORCH_KINDS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Floating point types, by their names in the format."""
_COUNTS = {"I64": torch.int64, "I32": torch.int32, "BOOL": torch.bool}
"""Of buffers that a model counts or marks with."""


def whole_state(model: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a checkpoint as a trainer's state dict has it: a tied head included."""
    stored = stored_tensors(model)
    for name, tensor in stored.items():
        yield name, torch_tensor(tensor)
    if "lm_head.weight" not in stored and "model.embed_tokens.weight" in stored:
        yield "lm_head.weight", torch_tensor(stored["model.embed_tokens.weight"])


def torch_tensor(stored: Stored) -> Tensor:
    """A tensor in the type it is stored in."""
    kind = TORCH_KINDS.get(stored.kind) or _COUNTS.get(stored.kind)
    if kind is None:
        raise InputError(f"{stored.path} holds tensors of type {stored.kind}: quantised.")
    return torch.from_numpy(stored.raw().copy()).view(kind).reshape(stored.shape)
