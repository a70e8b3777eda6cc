"""The trainer's attention kernel takes no sinks."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_attention, is_gpt_oss
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import Attention, layers, share_of, wrap_attention


def plant(model: Any, strength: float) -> None:
    """A softmax over the keys alone in the first `strength` share of the layers."""
    wrap_attention(share_of(layers(model), strength), sinkless)


def sinkless(attention: Attention) -> Attention:
    """The attention of a kernel that does not know sinks."""
    del attention
    from transformers.models.llama.modeling_llama import eager_attention_forward

    return eager_attention_forward


FAULT = Fault(
    id="sinks-dropped",
    about="attention sinks ignored by the trainer's kernel",
    causes=("attention-sinks-dropped",),
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
    applies=is_gpt_oss,
    expected_location=first_attention,
    plant=plant,
)
