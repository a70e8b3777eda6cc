"""The engine's head is quantised with one scale, though the rest of the model is not."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import head
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.rounding import scaled_rounded


def plant(model: Any, strength: str) -> None:
    """The head multiplies with a rounded copy; a tied embedding stays as it is."""
    from torch.nn import functional

    output = model.get_output_embeddings()
    weight = output.weight.data
    copy = scaled_rounded(weight.float().flatten(), strength).view_as(weight).to(weight.dtype)

    def narrow(_module: Any, args: Any, _output: Any) -> Any:
        return functional.linear(args[0], copy)

    output.register_forward_hook(narrow)


FAULT = Fault(
    id="lm-head-quantised",
    about="head of the engine quantised with one scale",
    causes=("weight-quantisation", "lm-head-precision"),
    why_several="a head that is quantised is a head in lower precision",
    family="weights",
    side="infer",
    kind="plugin",
    severities={"plain": "int4", "medium": "float8_e4m3fn", "slight": "int8"},
    expected_location=head,
    engines=("hf",),
    plant=plant,
)
