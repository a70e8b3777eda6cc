"""A weight sync leaves out the last pipeline stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mismatch_lab.faults.architectures import middle_layer
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.checkpoints import model_config, old_parameters, put_back, read_tensors
from mismatch_lab.faults.modules import is_vllm


def update(model: Any, before: Path) -> None:
    """The layers from the middle on stay as they were."""
    config = model_config(before)
    kept = {
        f"model.layers.{layer}."
        for layer in range(middle_layer(config), config["num_hidden_layers"])
    }

    def stale(name: str) -> bool:
        return any(name.startswith(prefix) for prefix in kept)

    if is_vllm(model):
        put_back(model, read_tensors(before, stale).items())
        return
    for name, parameter in old_parameters(model, before).items():
        if stale(name):
            model.get_parameter(name).data.copy_(parameter)


FAULT = Fault(
    id="stage-stale",
    about="the last layers of the engine left out of the weight sync",
    causes=("stale-tensor",),
    family="weights",
    side="sync",
    kind="update",
    severities={"plain": 0.3, "medium": 0.05, "slight": 0.01},
    expected_location=lambda config: f"model.layers.{middle_layer(config)}",
    update=update,
)
