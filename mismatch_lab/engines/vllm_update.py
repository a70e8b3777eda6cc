"""New weights for a running vLLM engine through vLLM's own paths, and tensors loaded again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mismatch_lab.checkpoints.tensors import Stored, stored_tensors
from mismatch_lab.engines.vllm_transfer import transfer_weights
from mismatch_lab.errors import EngineError, InputError
from mismatch_lab.schema import WeightUpdate

TORCH_KINDS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Floating point types, by their names in the format."""
_COUNTS = {"I64": torch.int64, "I32": torch.int32, "BOOL": torch.bool}
"""Of buffers that a model counts or marks with."""


def update_weights(llm: Any, model: str, how: WeightUpdate) -> None:
    """Give a running engine the weights of `model`, and believe it when it reports success.

    Raises:
        EngineError: vLLM refused, with its words.
    """
    weights: dict[str, Any] = {"weights_path": model}
    if how == "weights_iterator":
        weights = {"weights_iterator": whole_state(model)}
    try:
        if how == "weight_transfer":
            transfer_weights(llm, whole_state(model))
        else:
            llm.collective_rpc("reload_weights", kwargs=weights)
    except Exception as error:
        raise EngineError(
            f"vLLM could not be updated to {model} by {how}: {type(error).__name__}: {error}",
            "Its own update path failed; a new engine on the checkpoint needs none.",
        ) from error


def whole_state(model: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a checkpoint as a trainer's state dict has it: a tied head included."""
    stored = stored_tensors(model)
    for name, tensor in stored.items():
        yield name, torch_tensor(tensor)
    if "lm_head.weight" not in stored and "model.embed_tokens.weight" in stored:
        yield "lm_head.weight", torch_tensor(stored["model.embed_tokens.weight"])


def reload_tensors(module: Any, model: str, names: tuple[str, ...]) -> None:
    """Load single tensors of a checkpoint into vLLM's module, before kernels repack its weights.

    Raises:
        InputError: the checkpoint has no such tensor.
        EngineError: vLLM's loader failed.
    """
    stored = stored_tensors(model)
    unknown = [name for name in names if name not in stored]
    if unknown:
        raise InputError(f"{model} has no tensor {unknown[0]!r} to load again.")
    try:
        module.load_weights([(name, torch_tensor(stored[name])) for name in names])
    except Exception as error:
        raise EngineError(
            f"vLLM could not load {names[0]} again: {type(error).__name__}: {error}"
        ) from error


def torch_tensor(stored: Stored) -> Tensor:
    """A tensor in the type it is stored in."""
    kind = TORCH_KINDS.get(stored.kind) or _COUNTS.get(stored.kind)
    if kind is None:
        raise InputError(f"{stored.path} holds tensors of type {stored.kind}: quantised.")
    return torch.from_numpy(stored.raw().copy()).view(kind).reshape(stored.shape)
