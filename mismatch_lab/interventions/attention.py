"""Suspected defects of attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mismatch_lab.definitions.modules import Attention
from mismatch_lab.errors import NotApplicableError
from mismatch_lab.interventions.planting import (
    attributes_set,
    factor,
    hooks,
    in_layers,
    number,
    tensors_set,
    whole,
)
from mismatch_lab.schema import Alteration

NO_WEIGHT = -1e4
"""As a logit: e to the power of it is 0 in every precision."""

WIDER_THAN_ANY = 1 << 30
"""A window that hides nothing, for models that cannot do without one."""

ATTENTION_NAMES = ("self_attn", "attn", "attention")


def attentions(model: nn.Module, alteration: Alteration) -> dict[str, Any]:
    """Attention modules of the altered layers by name.

    Raises:
        NotApplicableError: there are none.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in ATTENTION_NAMES
        and hasattr(module, "layer_idx")
        and in_layers(name, alteration)
    }
    if not found:
        raise NotApplicableError("The model has no attention in these layers.")
    return found


def is_eager(module: Any) -> bool:
    """Whether what stands in the module is what is computed: no kernel stands in its place."""
    return isinstance(module, Attention) or module.config._attn_implementation == "eager"


@contextmanager
def drop_sinks(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Attention as if its sinks took no weight."""
    sinks = [
        parameter
        for name, parameter in model.named_parameters()
        if name.endswith(".sinks") and in_layers(name, alteration)
    ]
    if not sinks:
        raise NotApplicableError("The model has no attention sinks.")
    with tensors_set([(sink, torch.full_like(sink, NO_WEIGHT)) for sink in sinks]):
        yield


@contextmanager
def attention_softcap(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Attention logits capped at another value; 0 is no cap."""
    cap = number(alteration) or None
    changed = [
        module
        for module in attentions(model, alteration).values()
        if getattr(module, "attn_logit_softcapping", None) not in (None, cap) and is_eager(module)
    ]
    if not changed:
        raise NotApplicableError("The model has no other cap on its attention logits.")
    with attributes_set([(module, "attn_logit_softcapping", cap) for module in changed]):
        yield


@contextmanager
def attention_scale(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Queries and keys multiplied with another factor before the softmax."""
    by = factor(alteration)
    changed = [m for m in attentions(model, alteration).values() if hasattr(m, "scaling")]
    if not changed:
        raise NotApplicableError("The model's attention has no scale that can be set.")
    with attributes_set([(module, "scaling", module.scaling * by) for module in changed]):
        yield


@contextmanager
def sliding_window(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Windows of another width (tokens seen, the query's own included); 0 is full attention.

    All layers that have a window, or the layers named, whether they have one or not.
    """
    width = whole(alteration) or None
    changed = [
        module
        for module in attentions(model, alteration).values()
        if _window(module) != width
        and (alteration.layers is not None or _window(module) is not None)
    ]
    if not changed:
        raise NotApplicableError("The model has no attention window of another width.")
    if alteration.layers is None:
        with _window_of_the_model(changed, width):
            yield
    else:
        with _window_of_layers(changed, width):
            yield


def _window_of_the_model(modules: list[Any], width: int | None) -> AbstractContextManager[None]:
    """The model makes one mask for all windowed layers, as its config says when it runs."""
    configs = {id(m.config): m.config for m in modules if hasattr(m, "config")}.values()
    changes = [(config, "sliding_window", width or WIDER_THAN_ANY) for config in configs]
    own = [(m, "sliding_window", width) for m in modules if hasattr(m, "sliding_window")]
    return attributes_set([*changes, *own])


def _window_of_layers(modules: list[Any], width: int | None) -> AbstractContextManager[None]:
    if all(isinstance(module, Attention) for module in modules):  # each makes its own mask
        return attributes_set([(module, "sliding_window", width) for module in modules])
    if any(module.config._attn_implementation not in ("eager", "sdpa") for module in modules):
        raise NotApplicableError("Single layers take another mask in eager and sdpa attention.")

    def other(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        hidden = args[0] if args else kwargs["hidden_states"]
        mask = _mask(hidden, kwargs["attention_mask"], _window(module), width)
        return args, kwargs | {"attention_mask": mask}

    return hooks(m.register_forward_pre_hook(other, with_kwargs=True) for m in modules)


def _window(module: Any) -> int | None:
    # Models whose layers all have the window keep it in the config only (Mistral).
    own = getattr(getattr(module, "config", None), "sliding_window", None)
    width: int | None = getattr(module, "sliding_window", own)
    return width


def _mask(hidden: Tensor, given: Tensor | None, old: int | None, width: int | None) -> Tensor:
    """[B, 1, n, m] mask in the form of the one given: added to logits, or true where seen.

    What the given mask hides inside the old window (padding) stays hidden; behind it, it says
    nothing, and all is seen that the new window holds.
    """
    n = hidden.shape[1]
    m = n if given is None else given.shape[-1]
    at = torch.arange(m, device=hidden.device)
    distance = at[m - n :, None] - at[None, :]
    seen = ((distance >= 0) & (distance < (width or m)))[None, None]
    if given is None:
        return seen
    shown = given if given.dtype == torch.bool else given == 0
    seen = seen & (shown | (distance >= (old or m)))
    if given.dtype == torch.bool:
        return seen
    hidden_value = torch.finfo(given.dtype).min
    return torch.zeros_like(seen, dtype=given.dtype).masked_fill(~seen, hidden_value)
