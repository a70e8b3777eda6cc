"""The trainer's RMSNorms compute mean square and product in bf16."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Config, Fault
from mismatch_lab.faults.modules import norms, share_of


def plant(model: Any, strength: float) -> None:
    """The first `strength` share of the norms."""
    import torch

    def narrow(module: Any, args: Any, output: Any) -> Any:
        x = args[0].to(torch.bfloat16)
        eps = getattr(module, "variance_epsilon", None) or module.eps
        mean_square = x.pow(2).mean(-1, keepdim=True)
        weight = module.weight.to(torch.bfloat16)
        gain = 1 + weight if type(module).__name__.startswith("Gemma") else weight
        return (x * torch.rsqrt(mean_square + eps) * gain).to(output.dtype)

    for norm in share_of(norms(model), strength):
        norm.register_forward_hook(narrow)


def _first(config: Config) -> str:
    del config
    return "model.layers.0.input_layernorm"


FAULT = Fault(
    id="norm-bf16",
    about="RMSNorm of the trainer in bf16",
    causes=("norm-precision",),
    family="precision",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.01},
    expected_location=_first,
    dtypes=("float32",),
    plant=plant,
)
