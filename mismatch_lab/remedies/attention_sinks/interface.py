"""Sink attention under a name that transformers knows: `attn_implementation="attention-sinks"`."""

from __future__ import annotations

from torch import nn
from torch.distributed import ProcessGroup
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

from mismatch_lab.errors import InputError
from mismatch_lab.remedies.attention_sinks.attend import SinkAttention

# transformers replaces what begins with "flash" by kernels of its own list.
NAME = "attention-sinks"


def register(
    name: str = NAME,
    *,
    kernel: str = "auto",
    fused: bool | None = None,
    group: ProcessGroup | None = None,
) -> None:
    """Make `attn_implementation=name` mean sink attention through this kernel.

    Args:
        name: must not begin with `flash`.
        kernel: a row of `KERNELS`, `torch` or `auto` (see `pick_kernel`).
        fused: see `sink_attention`.
        group: ranks of sequence parallelism. Each calls the model with its piece of every
            sequence, as long as the others', and the `position_ids` of that piece; gradients of
            the sinks are to be summed over the group as all parameters' are. The group is held
            until the name is registered again.

    Raises:
        InputError: a name that transformers would replace.
    """
    if name.startswith("flash"):
        raise InputError(f"transformers would replace {name!r} by a kernel of its own.")
    AttentionInterface.register(name, SinkAttention(kernel, fused, group))
    # None, or [B, m] where there is padding: no mask of scores is ever made.
    AttentionMaskInterface.register(name, flash_attention_mask)


def use(model: nn.Module) -> None:
    """Let a loaded model attend through a flash kernel with sinks; fits `--trainer-plugin`.

    Raises:
        InputError: not a transformers model, or it has no sinks.
    """
    if not any(parameter.endswith("sinks") for parameter, _ in model.named_parameters()):
        raise InputError(f"{type(model).__name__} has no attention sinks.")
    register()
    model.set_attn_implementation(NAME)  # type: ignore[operator]
