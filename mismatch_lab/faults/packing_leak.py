"""Packed sequences whose positions do not restart: later ones see the earlier ones."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault, RunOptions


def plant(model: Any, strength: float) -> None:
    """The positions of a packed row run on, as if it were one sequence."""
    del strength

    def run_on(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        import torch

        positions = kwargs.get("position_ids")
        if positions is None:
            return args, kwargs
        through = torch.arange(positions.shape[-1], device=positions.device)
        mask = kwargs.get("attention_mask")
        if mask is not None and (isinstance(mask, dict) or mask.dim() > 2):
            kwargs = kwargs | {"attention_mask": None}  # a mask of documents
        return args, kwargs | {"position_ids": through.expand_as(positions)}

    model.register_forward_pre_hook(run_on, with_kwargs=True)


def options(strength: float) -> RunOptions:
    """Packs of `strength` sequences."""
    return RunOptions(trainer_args={"packing": True, "micro_batch": int(strength)})


FAULT = Fault(
    id="packing-leak",
    about="packed sequences attend to their neighbours in the trainer",
    causes=("packing-leak",),
    family="tokens",
    side="train",
    kind="plugin",
    severities={"plain": 8, "medium": 4, "slight": 2},
    plant=plant,
    options=options,
)
