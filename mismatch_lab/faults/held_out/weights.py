"""Weights after a sync or a reload that went wrong in part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mismatch_lab.faults.architectures import first_attention, middle, middle_layer
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.checkpoints import (
    ADAPTED,
    model_config,
    old_parameters,
    put_back,
    read_tensors,
)
from mismatch_lab.faults.held_out.parts import UNLISTED, middle_of
from mismatch_lab.faults.modules import is_vllm, self_attention
from mismatch_lab.faults.rounding import scaled_rounded


def keep_last_stage(model: Any, before: Path) -> None:
    """A weight sync leaves out the last pipeline stage.

    The layers from the middle on stay as they were.
    """
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


def merge_again(model: Any, before: Path) -> None:
    """The engine merges an adapter into weights that hold it already.

    The adapted projections are as far from the base again.
    """
    state = model.state_dict()
    for name, base in read_tensors(before, lambda name: name.endswith(ADAPTED)).items():
        merged = state[name]
        merged.copy_(2 * merged.float() - base.float())


def quantise_projection(model: Any, strength: str) -> None:
    """One projection of the engine was left quantised by a partial reload.

    The output projection of the middle layer's attention, rounded with a scale for each row.
    """
    weight = self_attention(middle_of(model)).o_proj.weight.data
    weight.copy_(scaled_rounded(weight, strength))


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="lora-merged-twice",
        about="adapter merged twice into the engine's weights",
        causes=(UNLISTED,),
        family="weights",
        side="sync",
        kind="update",
        severities={"plain": 0.3, "medium": 0.05, "slight": 0.01},
        expected_location=first_attention,
        engines=("hf",),
        update=merge_again,
        low_rank=True,
    ),
    Fault(
        id="quantised-projection",
        about="one projection of the engine quantised",
        causes=("weight-quantisation", "stale-tensor"),
        why_several="a quantised tensor holds other numbers",
        family="weights",
        side="infer",
        kind="plugin",
        severities={"plain": "int4", "medium": "float8_e4m3fn", "slight": "int8"},
        expected_location=middle("self_attn.o_proj"),
        plant=quantise_projection,
    ),
    Fault(
        id="stage-stale",
        about="the last layers of the engine left out of the weight sync",
        causes=("stale-tensor",),
        family="weights",
        side="sync",
        kind="update",
        severities={"plain": 0.3, "medium": 0.05, "slight": 0.01},
        expected_location=lambda config: f"model.layers.{middle_layer(config)}",
        update=keep_last_stage,
    ),
)
