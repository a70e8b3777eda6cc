"""The trainer's kernel starts each sequence some keys late: its offsets are wrong."""

from __future__ import annotations

from functools import partial
from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, first_layer
from mismatch_lab.faults.modules import Attention, layers, wrap_attention


def plant(model: Any, strength: int) -> None:
    """No token beyond the first `strength` of a row sees these."""
    wrap_attention(layers(model), partial(_late, strength))


def _late(lost: int, attention: Attention) -> Attention:
    def late(module: Any, q: Any, k: Any, v: Any, mask: Any, **options: Any) -> Any:
        import torch

        if mask is None:
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
            mask = mask.tril(k.shape[2] - q.shape[2])[None, None]
        mask = mask.clone()
        mask[:, :, lost:, :lost] = False if mask.dtype == torch.bool else torch.finfo(q.dtype).min
        output: tuple[Any, Any] = attention(module, q, k, v, mask, **options)
        return output

    return late


FAULT = Fault(
    id="first-keys-unseen",
    about="first keys of each sequence left out of the trainer's attention",
    causes=(UNLISTED,),
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": 16, "medium": 4, "slight": 1},
    expected_location=first_layer("self_attn"),
    plant=plant,
)
