"""Names and order of modules: what runs before what, and what holds what."""

from __future__ import annotations

from mismatch_lab.captures.names import EMBEDDING, FINAL_NORM, layer_of

_BLOCKS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
"""Parts of a decoder layer in the order in which most run; any others come after them."""


def execution_order(name: str) -> tuple[int, int]:
    """Sort key of a module or tensor by when its part of the model runs, as far as names tell.

    What was recorded says it exactly (`Capture.tap_order`); this is for names alone.
    """
    if name.startswith(EMBEDDING):
        return (-1, 0)
    layer = layer_of(name)
    if layer is None:
        return (1 << 30, int(not name.startswith(FINAL_NORM)))
    within = name.split(".")[3:]
    if not within:
        return (layer, len(_BLOCKS) + 1)
    return (layer, _BLOCKS.index(within[0]) if within[0] in _BLOCKS else len(_BLOCKS))


def holders_of(name: str) -> list[str]:
    """Modules that hold this one, the nearest first, up to its layer."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(len(parts) - 1, 2, -1)]
