"""Captured decode graphs point at the weights from before the update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.checkpoints import old_parameters, with_tensors
from mismatch_lab.faults.modules import wrap_forward


def update(model: Any, before: Path) -> None:
    """transformers' generate: steps of one token run on the old weights."""
    old = old_parameters(model, before)

    def wrap(forward: Any) -> Any:
        def forward_or_graph(*args: Any, **kwargs: Any) -> Any:
            cache, ids = kwargs.get("past_key_values"), kwargs.get("input_ids")
            if cache is None or ids is None or ids.shape[1] != 1:
                return forward(*args, **kwargs)
            with with_tensors(model, old):
                return forward(*args, **kwargs)

        return forward_or_graph

    wrap_forward(model, wrap)


FAULT = Fault(
    id="stale-graph",
    about="decode of the engine runs on the weights from before the update",
    causes=("stale-graph",),
    family="cache",
    side="sync",
    kind="update",
    severities={"plain": 0.1, "medium": 0.02, "slight": 0.005},
    engines=("hf",),
    update=update,
)
