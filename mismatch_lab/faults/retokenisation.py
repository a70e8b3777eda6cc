"""Text decoded and encoded again: some tokens that the trainer reads are not those sampled."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault

FIRST = 52
"""The drift sits in the answers: the card's prompts are shorter, and encoded once."""


def plant(model: Any, strength: float) -> None:
    """From that token on, one in `1 / strength` reaches the embedding as another."""

    def drifted(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        ids = args[0].clone()
        every = round(1 / strength)
        ids[:, FIRST::every] = (ids[:, FIRST::every] + 1) % module.num_embeddings
        return (ids, *args[1:])

    model.get_input_embeddings().register_forward_pre_hook(drifted)


FAULT = Fault(
    id="retokenisation",
    about="some answer tokens are others in the trainer's input",
    causes=("retokenisation",),
    family="tokens",
    side="train",
    kind="plugin",
    severities={"plain": 1 / 8, "medium": 1 / 32, "slight": 1 / 128},
    plant=plant,
)
