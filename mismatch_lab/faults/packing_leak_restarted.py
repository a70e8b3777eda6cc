"""Packed sequences whose positions restart, under a mask that knows of no documents."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault, RunOptions


def plant(model: Any, strength: float) -> None:
    """A mask of ones, from which transformers infers one document (nanoVLM's defect)."""
    del strength

    def one_document(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        positions = kwargs.get("position_ids")
        if positions is None or kwargs.get("past_key_values") is not None:
            return args, kwargs
        return args, kwargs | {"attention_mask": positions.new_ones(positions.shape)}

    model.register_forward_pre_hook(one_document, with_kwargs=True)


def options(strength: float) -> RunOptions:
    """Packs of `strength` sequences."""
    return RunOptions(trainer_args={"packing": True, "micro_batch": int(strength)})


FAULT = Fault(
    id="packing-leak-restarted",
    about="packed sequences attend to their neighbours, at restarted positions",
    causes=("packing-leak",),
    family="tokens",
    side="train",
    kind="plugin",
    severities={"plain": 8, "medium": 4, "slight": 2},
    plant=plant,
    options=options,
)
