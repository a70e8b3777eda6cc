"""Attention sinks in the trainer, through a flash kernel; the mathematics: `attention_sinks`."""

from __future__ import annotations

from typing import Any

from mismatch_lab.remedies.base import Memory, Remedy


def use(model: Any) -> None:
    """Every layer of a GPT-OSS attends with sinks, also one whose attention was replaced by name.

    Raises:
        InputError: the model has no sinks.
    """
    from mismatch_lab.remedies.attention_sinks import interface

    for module in model.modules():
        if hasattr(module, "sinks") and hasattr(module, "config"):
            module.config = model.config
    interface.use(model)


REMEDY = Remedy(
    id="attention-sinks",
    about="the trainer's attention honours the learned sinks, forward and backward",
    formula="out = o·sigmoid(lse - s), ds = -sum exp(s - L)(dout·out)",
    source="LinkedIn, Unlocking Agentic RL Training for GPT-OSS (2026); openai/gpt-oss",
    removes=("attention-sinks-dropped",),
    memory=Memory(attention="attention-sinks"),
    change_model=use,
)
