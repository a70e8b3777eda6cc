"""The trainer's scoring pass: what depends on its batch, or on its mode."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_attention
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import layers
from mismatch_lab.faults.rounding import rounded


def split_products_by_batch(model: Any, strength: str) -> None:
    """The trainer's matrix products are cut into as many partial sums as the batch has rows.

    The layers' linears keep their partial sums in the dtype `strength`; one row has one.
    """
    import torch
    from torch.nn import functional

    def split_k(module: Any, args: Any, output: Any) -> Any:
        hidden = args[0]
        chunks = min(len(hidden) if hidden.dim() == 3 else 1, hidden.shape[-1])
        if chunks == 1:
            return output
        total = torch.zeros_like(output) if module.bias is None else module.bias.expand_as(output)
        for x, weight in zip(
            hidden.chunk(chunks, -1), module.weight.chunk(chunks, -1), strict=True
        ):
            total = total + rounded(functional.linear(x, weight), strength)
        return total

    for layer in layers(model):
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(split_k)


def switch_dropout_on(model: Any, strength: float) -> None:
    """The trainer scores with dropout switched on.

    A share of the outputs of every attention block is zeroed, in every pass anew.
    """
    from torch.nn import functional

    def drop(_module: Any, _args: Any, output: Any) -> Any:
        return (functional.dropout(output[0], strength, training=True), *output[1:])

    for layer in layers(model):
        layer.self_attn.register_forward_hook(drop)


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="batch-variance",
        about="matrix products of the trainer depend on the batch",
        causes=("batch-variance",),
        family="trainer",
        side="train",
        kind="plugin",
        severities={"plain": "float8_e4m3fn", "medium": "bfloat16", "slight": "float16"},
        expected_location=first_attention,
        plant=split_products_by_batch,
    ),
    Fault(
        id="dropout-active",
        about="dropout on in the trainer's scoring pass",
        causes=("dropout-active",),
        family="trainer",
        side="train",
        kind="plugin",
        severities={"plain": 0.1, "medium": 0.01, "slight": 0.001},
        expected_location=first_attention,
        plant=switch_dropout_on,
    ),
)
