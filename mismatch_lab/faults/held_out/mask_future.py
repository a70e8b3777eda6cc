"""The trainer's causal mask lets a token see the next one."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, first_layer
from mismatch_lab.faults.modules import Attention, layers, share_of, wrap_attention


def plant(model: Any, strength: float) -> None:
    """In the first `strength` share of the layers each query has the mask of the one after it."""

    def wrap(attention: Attention) -> Attention:
        def peeking(module: Any, q: Any, k: Any, v: Any, mask: Any, **options: Any) -> Any:
            import torch

            if mask is None:
                mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
                mask = mask.tril(k.shape[2] - q.shape[2])[None, None]
            mask = torch.cat([mask[:, :, 1:], mask[:, :, -1:]], dim=2)
            output: tuple[Any, Any] = attention(module, q, k, v, mask, **options)
            return output

        return peeking

    wrap_attention(share_of(layers(model), strength), wrap)


FAULT = Fault(
    id="mask-future",
    about="causal mask of the trainer off by one",
    causes=(UNLISTED,),
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
    expected_location=first_layer("self_attn"),
    plant=plant,
)
