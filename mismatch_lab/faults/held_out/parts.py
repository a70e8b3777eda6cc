"""Parts of transformers' models that the other faults do not touch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mismatch_lab.faults.architectures import is_moe, middle_layer
from mismatch_lab.faults.base import Config
from mismatch_lab.faults.modules import layers

UNLISTED = "unlisted"
"""In the place of a cause: the defect is none of those that the tool can name."""


def is_dense(model_type: str, config: Config) -> bool:
    return not is_moe(model_type, config)


def middle_of(model: Any) -> Any:
    """The decoder layer that single-layer faults break."""
    return layers(model)[middle_layer(model.config.to_dict())]


def first_layer(part: str) -> Callable[[Config], str]:
    """`model.layers.0.PART`."""
    return lambda _config: f"model.layers.0.{part}"


def gate_up(mlp: Any) -> tuple[Any, Any]:
    """Weights [I, D] of gate and up of a dense block, views of them where they are fused."""
    if hasattr(mlp, "gate_up_proj"):
        gate, up = mlp.gate_up_proj.weight.data.chunk(2, dim=0)
        return gate, up
    return mlp.gate_proj.weight.data, mlp.up_proj.weight.data


def rescale_output(module: Any, change: Callable[[Any, Any], Any]) -> None:
    """A hook: `change(input, output)` of a block, whose output may be a tuple's first."""

    def hook(_module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        if isinstance(output, tuple):
            return (change(given, output[0]), *output[1:])
        return change(given, output)

    module.register_forward_hook(hook, with_kwargs=True)


def round_inputs(module: Any, rounding: Callable[[Any], Any]) -> None:
    """A hook: the hidden states reach the module through `rounding`."""

    def hook(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args:
            return (rounding(args[0]), *args[1:]), kwargs
        name = next(name for name in ("hidden_states", "input_", "input") if name in kwargs)
        return args, kwargs | {name: rounding(kwargs[name])}

    module.register_forward_pre_hook(hook, with_kwargs=True)
