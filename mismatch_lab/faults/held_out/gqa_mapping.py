"""The engine gives query heads the wrong key-value head: repeated as a whole, not each."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, first_layer
from mismatch_lab.faults.modules import Attention, layers, share_of, wrap_attention


def plant(model: Any, strength: float) -> None:
    """The first `strength` share of the layers."""

    def wrap(attention: Attention) -> Attention:
        def mapped(module: Any, q: Any, k: Any, v: Any, *args: Any, **options: Any) -> Any:
            groups = module.num_key_value_groups
            k, v = (states.repeat(1, groups, 1, 1) for states in (k, v))  # [B, heads, n, d]
            module.num_key_value_groups = 1
            try:
                output: tuple[Any, Any] = attention(module, q, k, v, *args, **options)
            finally:
                module.num_key_value_groups = groups
            return output

        return mapped

    wrap_attention(share_of(layers(model), strength), wrap)


FAULT = Fault(
    id="gqa-mapping",
    about="query heads of the engine with the wrong key-value heads",
    causes=(UNLISTED,),
    family="attention",
    side="infer",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
    expected_location=first_layer("self_attn"),
    engines=("hf",),
    plant=plant,
)
