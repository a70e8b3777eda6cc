"""The sum over experts under a name that transformers knows, and applied to a loaded model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from mismatch_lab.errors import InputError
from mismatch_lab.remedies.grouped_experts.function import Layout, grouped_experts

NAME = "grouped-experts"


def experts_forward(module: Any, hidden: Tensor, chosen: Tensor, routing: Tensor) -> Tensor:
    """What transformers calls in place of the forward of a layer's experts; [T, H].

    The same in train and eval mode. Parameters are taken from the module when it is called, when
    FSDP2 has gathered them, and kept by reference: they are gathered again for the backward pass.
    """
    name = "gate_up_proj" if module.has_gate else "up_proj"
    weights: list[Tensor | None] = [
        getattr(module, name),
        getattr(module, f"{name}_bias") if module.has_bias else None,
        module.down_proj,
        module.down_proj_bias if module.has_bias else None,
    ]
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        weights = [w if w is None else w.to(dtype) for w in weights]
    layout = Layout(module._apply_gate if module.has_gate else module.act_fn, module.is_transposed)
    up, up_bias, down, down_bias = weights
    assert up is not None
    assert down is not None
    return grouped_experts(layout, hidden, chosen, routing, up, up_bias, down, down_bias)


def register() -> None:
    """Make `experts_implementation="grouped-experts"` mean this."""
    ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)


def use(model: nn.Module) -> None:
    """Let a loaded model sum over experts without materialising; fits `--trainer-plugin`.

    Raises:
        InputError: not a transformers model, or its experts cannot be replaced by name.
    """
    if not any(hasattr(module, "is_transposed") for module in model.modules()):
        raise InputError(
            f"{type(model).__name__} has no experts that follow transformers' "
            "`experts_implementation`; leave grouped-experts out for this model."
        )
    register()
    model.set_experts_implementation(NAME)  # type: ignore[operator]
