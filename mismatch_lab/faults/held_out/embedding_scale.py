"""The trainer leaves out the factor on the embeddings."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Config, Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, rescale_output


def plant(model: Any, strength: float) -> None:
    """The factor to the power of 1 - strength."""
    config = model.config.to_dict()
    factor = config.get("embedding_multiplier") or config["hidden_size"] ** 0.5
    rescale_output(model.model.embed_tokens, lambda _ids, out: out * factor**-strength)


def has_factor(model_type: str, config: Config) -> bool:
    """Gemma's is the root of the hidden size."""
    return model_type.startswith("gemma") or "embedding_multiplier" in config


FAULT = Fault(
    id="embedding-scale",
    about="embeddings of the trainer not scaled",
    causes=(UNLISTED,),
    family="embedding",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.05, "slight": 0.005},
    applies=has_factor,
    expected_location=lambda _config: "model.embed_tokens",
    plant=plant,
)
