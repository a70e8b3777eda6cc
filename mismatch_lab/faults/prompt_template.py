"""The trainer renders another prompt than the engine saw: as long, other first tokens."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault


def plant(model: Any, strength: float) -> None:
    """The first `strength` tokens of each sequence reach the embedding as their neighbours in the
    vocabulary.
    """

    def rendered(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        ids = args[0].clone()
        first = ids[:, : int(strength)]
        ids[:, : int(strength)] = (first + 7) % module.num_embeddings
        return (ids, *args[1:])

    model.get_input_embeddings().register_forward_pre_hook(rendered)


FAULT = Fault(
    id="prompt-template",
    about="the first tokens of the prompt are others in the trainer",
    causes=("prompt-template",),
    family="tokens",
    side="train",
    kind="plugin",
    severities={"plain": 12, "medium": 4, "slight": 1},
    plant=plant,
)
