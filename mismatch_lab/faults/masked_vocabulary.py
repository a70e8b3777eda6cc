"""The trainer masks entries of the vocabulary that the sampler can draw."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault


def plant(model: Any, strength: float) -> None:
    """Every `strength`-th entry is masked, as by a list of allowed tokens that lacks some."""
    import torch

    def mask(_module: Any, _args: Any, output: Any) -> Any:
        logits = output.logits
        ids = torch.arange(logits.shape[-1], device=logits.device)
        output["logits"] = logits.masked_fill(ids % int(strength) == 1, -torch.inf)
        return output

    model.register_forward_hook(mask)


FAULT = Fault(
    id="masked-vocabulary",
    about="entries of the vocabulary that the sampler can draw masked in the trainer",
    causes=("impossible-token",),
    family="semantics",
    side="train",
    kind="plugin",
    severities={"plain": 7, "medium": 29, "slight": 61},
    plant=plant,
)
