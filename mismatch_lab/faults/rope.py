"""Rotary embeddings built again from other parameters."""

from __future__ import annotations

import copy
from typing import Any

from mismatch_lab.faults.modules import rotary


def rebuild_rope(model: Any, **changed: Any) -> None:
    """transformers: frequencies and attention scaling as from a config with other parameters."""
    for embedding in rotary(model):
        config = copy.deepcopy(embedding.config)
        config.rope_parameters = dict(config.rope_parameters) | changed
        other = type(embedding)(config)
        embedding.inv_freq.copy_(other.inv_freq)
        embedding.attention_scaling = other.attention_scaling


def rope_parameters(model: Any) -> dict[str, Any]:
    """The parameters that a transformers model was built with."""
    return dict(model.config.rope_parameters)
