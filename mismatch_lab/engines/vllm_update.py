"""New weights for a running vLLM engine through vLLM's own paths, and tensors loaded again."""

from __future__ import annotations

from typing import Any

from mismatch_lab.checkpoints.tensors import stored_tensors
from mismatch_lab.engines.vllm_transfer import transfer_weights
from mismatch_lab.engines.whole_state import torch_tensor, whole_state
from mismatch_lab.errors import EngineError, InputError
from mismatch_lab.schema import WeightUpdate


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
            transfer_weights(llm, model)
        else:
            llm.collective_rpc("reload_weights", kwargs=weights)
    except Exception as error:
        raise EngineError(
            f"vLLM could not be updated to {model} by {how}: {type(error).__name__}: {error}",
            "Its own update path failed; a new engine on the checkpoint needs none.",
        ) from error


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
