"""Suspected defects of the language-model head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mismatch_lab.errors import NotApplicableError
from mismatch_lab.interventions.planting import (
    attributes_set,
    hooks,
    number,
    text,
)
from mismatch_lab.interventions.rounding import float_dtype, rounded
from mismatch_lab.schema import Alteration


def head_of(model: Any) -> Any:
    """The module that turns hidden states into logits.

    Raises:
        NotApplicableError: there is none with a weight of its own.
    """
    head = model.get_output_embeddings()
    if head is None or not isinstance(getattr(head, "weight", None), nn.Parameter):
        raise NotApplicableError("The model has no language-model head.")
    return head


@contextmanager
def head_dtype(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """The head computed in another dtype: weights and input rounded, and so is what comes out."""
    dtype = float_dtype(text(alteration, "bfloat16"))
    head = head_of(model)
    if head.weight.dtype == dtype:
        raise NotApplicableError(f"The head runs in {dtype} already.")
    # A parameter of its own: a tied embedding keeps its precision.
    weight = nn.Parameter(rounded(head.weight.data, dtype), requires_grad=False)
    handles = (
        head.register_forward_pre_hook(lambda _module, args: (rounded(args[0], dtype), *args[1:])),
        head.register_forward_hook(lambda _module, _args, output: rounded(output, dtype)),
    )
    with attributes_set([(head, "weight", weight)]), hooks(handles):
        yield


@contextmanager
def logits_dtype(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Logits rounded to a dtype before the softmax."""
    dtype = float_dtype(text(alteration, "bfloat16"))
    if head_of(model).weight.dtype == dtype:
        raise NotApplicableError(f"The logits are {dtype} already.")
    with _logits(model, lambda logits: rounded(logits, dtype)):
        yield


@contextmanager
def final_softcap(model: Any, alteration: Alteration) -> Iterator[None]:
    """Logits capped at another value; 0 is no cap."""
    cap = number(alteration) or None
    config = model.config.get_text_config()
    if getattr(config, "final_logit_softcapping", cap) == cap:
        raise NotApplicableError("The model has no other cap on its logits.")
    with attributes_set([(config, "final_logit_softcapping", cap)]):
        yield


@contextmanager
def _logits(model: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    head_of(model)

    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        output.logits = change(output.logits)

    with hooks([model.register_forward_hook(hook)]):
        yield
