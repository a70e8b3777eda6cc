"""The trainer computes its head in fewer bits than the engine."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import head
from mismatch_lab.faults.base import Fault


def plant(model: Any, strength: str) -> None:
    """The head in the dtype `strength`; with `-inputs` its products are summed in fp32."""
    import torch
    from torch.nn import functional

    name, _, inputs_only = strength.partition("-")
    dtype = getattr(torch, name)

    def narrow(module: Any, args: Any, output: Any) -> Any:
        hidden, weight = args[0].to(dtype), module.weight.to(dtype)
        if inputs_only:
            hidden, weight = hidden.float(), weight.float()
        return functional.linear(hidden, weight).to(output.dtype)

    model.get_output_embeddings().register_forward_hook(narrow)


FAULT = Fault(
    id="lm-head-bf16",
    about="head of the trainer in bf16, of the engine in fp32",
    causes=("lm-head-precision",),
    family="precision",
    side="train",
    kind="plugin",
    severities={"plain": "bfloat16", "medium": "float16", "slight": "bfloat16-inputs"},
    expected_location=head,
    dtypes=("float32",),
    plant=plant,
)
