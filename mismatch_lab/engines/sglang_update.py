"""New weights for a running SGLang engine through SGLang's own paths."""

from __future__ import annotations

from typing import Any

from mismatch_lab.engines.sglang_process import SglangProcess
from mismatch_lab.engines.whole_state import whole_state
from mismatch_lab.errors import EngineError
from mismatch_lab.schema import WeightUpdate


def update_weights(process: SglangProcess, model: str, how: WeightUpdate) -> None:
    """Give a running engine the weights of `model`, and believe it when it reports success.

    `reload_weights` reads the folder (`update_weights_from_disk`), `weights_iterator` hands over
    tensors (`begin_weight_update`, `update_weights_from_tensor`, `end_weight_update`).

    Raises:
        EngineError: SGLang refused, with its words.
    """
    process.flush()  # a scheduler that is not yet at rest dies of an update (SGLang 0.5.21)
    if how == "reload_weights":
        _check("update_weights_from_disk", process.engine.update_weights_from_disk(model), model)
        return
    tensors = list(whole_state(model))
    framed = hasattr(process.engine, "begin_weight_update")  # not before 0.5.21
    if framed:
        _check("begin_weight_update", process.engine.begin_weight_update(), model)
    _check("update_weights_from_tensor", process.engine.update_weights_from_tensor(tensors), model)
    if framed:
        _check("end_weight_update", process.engine.end_weight_update(), model)


def _check(call: str, answer: Any, model: str) -> None:
    success = answer[0] if isinstance(answer, tuple) else getattr(answer, "success", True)
    message = answer[1] if isinstance(answer, tuple) else getattr(answer, "message", "")
    if not success:
        raise EngineError(
            f"SGLang could not be updated to {model}: {call} says: {message}",
            "Its own update path failed; a new engine on the checkpoint needs none.",
        )
