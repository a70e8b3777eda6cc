"""The head's product in float32 on both sides: on one side alone it makes the mismatch larger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mismatch_lab.errors import InputError
from mismatch_lab.remedies.base import Memory, Remedy

if TYPE_CHECKING:
    from torch import Tensor, nn

COPY = "weight_fp32"
"""The engine's head keeps a copy under this name; each transfer of weights renews it."""


def trainer_head_in_fp32(model: Any) -> None:
    """Change a transformers model in place.

    Raises:
        InputError: its head is no linear layer.
    """
    from torch import nn
    from torch.nn import functional

    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise InputError("fp32-head: the model's head is no linear layer.")

    def forward(hidden: Tensor) -> Tensor:
        bias = None if head.bias is None else head.bias.float()
        return functional.linear(hidden.float(), head.weight.float(), bias)

    head.forward = forward  # type: ignore[method-assign, assignment]


def engine_head_in_fp32(model: Any) -> None:
    """Change vLLM's model in place, before kernels repack its weights; a `--engine-plugin`.

    Raises:
        InputError: its head has a bias or is spread over ranks.
    """
    from torch.nn import functional

    head = model.lm_head
    if getattr(head, "bias", None) is not None:
        raise InputError("fp32-head: the engine's head has a bias.")
    setattr(head, COPY, head.weight.detach().float().clone())

    def product(_layer: Any, hidden: Tensor, bias: Tensor | None = None) -> Tensor:
        del bias
        return functional.linear(hidden.float(), getattr(head, COPY))

    head.quant_method.apply = product


def renew(model: nn.Module, weight: Tensor) -> None:
    """Give the engine's copy new values, where there is one."""
    import torch

    copy = held(model)
    if copy is not None:
        with torch.no_grad():
            copy[: len(weight)].copy_(weight)


def held(model: nn.Module) -> Tensor | None:
    """The engine's copy, padded as its head is; None where there is none."""
    copy: Tensor | None = getattr(getattr(model, "lm_head", None), COPY, None)
    return copy


REMEDY = Remedy(
    id="fp32-head",
    about="logits are a float32 product of the head's weights, in the trainer and in the engine",
    formula="logits = float32(h) @ float32(W).T",
    source="MiniMax-M1, https://arxiv.org/abs/2506.13585; one-sided harm: NeMo-RL #3936",
    removes=("lm-head-precision",),
    engine="vllm in one process",
    memory=Memory(head_copy=True),
    change_model=trainer_head_in_fp32,
    change_engine=engine_head_in_fp32,
)
