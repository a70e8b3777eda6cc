"""Suspected defects of the key-value cache."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from mismatch_lab.errors import InputError, NotApplicableError
from mismatch_lab.interventions.attention import attentions
from mismatch_lab.interventions.planting import hooks, text
from mismatch_lab.interventions.rounding import (
    check_format,
    float_dtype,
    rounded,
    scaled_rounded,
    truncated,
)
from mismatch_lab.schema import Alteration

Kwargs = dict[str, Any]
Narrow = Callable[[Tensor], Tensor]
PROMPT_LENGTHS: ContextVar[Tensor | None] = ContextVar("PROMPT_LENGTHS", default=None)
"""[B] tokens that each sequence of the running pass begins with and nobody sampled; None in a pass
that has several sequences in a row."""


@contextmanager
def prompts_of(lengths: Tensor | None) -> Iterator[None]:
    """`PROMPT_LENGTHS` of the pass inside the block."""
    told = PROMPT_LENGTHS.set(lengths)
    try:
        yield
    finally:
        PROMPT_LENGTHS.reset(told)


@contextmanager
def kv_dtype(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Keys (after RoPE) and values as they come back from a cache of a narrower format.

    Value: a dtype, for a scale of 1; `DTYPE:scaled`, for one that takes the largest magnitude of
    the tensor to the format's largest; `DTYPE:per_token`, for such a scale of every token and head;
    or `DTYPE:truncated`, for a scale of 1 and fp8 numbers cut off towards zero (vLLM's CPU backend,
    0.32).
    """

    def narrowed(kwargs: Kwargs, name: str, _hidden: Tensor, narrow: Narrow) -> Kwargs:
        return {name: NarrowCache(kwargs.get(name), narrow)}

    with _given_to_attention(model, alteration, narrowed):
        yield


@contextmanager
def _given_to_attention(
    model: nn.Module,
    alteration: Alteration,
    given: Callable[[Kwargs, str, Tensor, Narrow], Kwargs],
) -> Iterator[None]:
    """Attention with other arguments, made of its own, its name for the cache and its input."""
    narrow = _narrowing(text(alteration))
    if next(model.parameters()).dtype == _plain_dtype(alteration):
        raise NotApplicableError("Keys and values have that dtype already.")
    names = {m: _cache_argument(m) for m in attentions(model, alteration).values()}

    def changed(module: nn.Module, args: Any, kwargs: Kwargs) -> tuple[Any, Kwargs]:
        hidden = args[0] if args else kwargs["hidden_states"]
        return args, kwargs | given(kwargs, names[module], hidden, narrow)

    with hooks(module.register_forward_pre_hook(changed, with_kwargs=True) for module in names):
        yield


def _cache_argument(attention: Any) -> str:
    """What its forward calls the cache."""
    takes = inspect.signature(attention.forward).parameters
    for name in ("past_key_values", "layer_past"):
        if name in takes:
            return name
    raise NotApplicableError(f"{type(attention).__name__} takes no cache.")


class NarrowCache:
    """Stands where attention looks for its cache: rounds what is put in, and keeps nothing."""

    def __init__(self, inner: Any, narrow: Callable[[Tensor], Tensor]) -> None:
        self.inner = inner
        self.narrow = narrow

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
        """(keys, values) to attend to, [B, heads, n, D] each."""
        keys, values = self.narrow(keys), self.narrow(values)
        if self.inner is None:
            return keys, values
        return self.inner.update(keys, values, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@contextmanager
def kv_read_back(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """As `kv_dtype`, where a pass that writes keys and values attends to what it has, and only
    later ones to what they read back: a prompt's tokens see each other as they are, and so does a
    sampled token itself.

    Every key is there twice, narrow and as it is, and the mask says which of them a query sees.
    """

    def both(kwargs: Kwargs, name: str, hidden: Tensor, narrow: Narrow) -> Kwargs:
        lengths = PROMPT_LENGTHS.get()
        if "attention_mask" not in kwargs or lengths is None or kwargs.get("alibi") is not None:
            raise NotApplicableError("Keys cannot be given twice to this attention.")
        mask = _for_both(kwargs["attention_mask"], hidden, lengths.to(hidden.device))
        return {name: BothCache(None, narrow), "attention_mask": mask}

    with _given_to_attention(model, alteration, both):
        yield


class BothCache(NarrowCache):
    """Keys and values twice: rounded, then as they were put in."""

    def update(self, keys: Tensor, values: Tensor, *_args: Any, **_kwargs: Any) -> Any:
        """(keys, values) to attend to, [B, heads, 2n, D] each."""
        return torch.cat([self.narrow(keys), keys], -2), torch.cat(
            [self.narrow(values), values], -2
        )


def _for_both(mask: Tensor | None, hidden: Tensor, prompt_lengths: Tensor) -> Tensor:
    """[B, 1, n, 2n] which of the narrow and of the plain keys each query sees, of a mask of n."""
    place = torch.arange(hidden.shape[1], device=hidden.device)
    query, key = place[:, None], place[None, :]
    of_prompt = place < prompt_lengths[:, None]
    own = ((of_prompt[:, :, None] & of_prompt[:, None, :]) | (query == key))[:, None]
    seen = (query >= key)[None, None] if mask is None else mask[..., : len(place)]
    if seen.dtype == torch.bool:
        return torch.cat([seen & ~own, seen & own], -1)
    none = torch.finfo(seen.dtype).min
    return torch.cat([seen.masked_fill(own, none), seen.masked_fill(~own, none)], -1)


def _narrowing(value: str) -> Callable[[Tensor], Tensor]:
    name, _, how = value.partition(":")
    if how == "scaled":
        check_format(name)
        return lambda tensor: scaled_rounded(tensor, name)
    if how == "per_token":
        check_format(name)
        return lambda tensor: scaled_rounded(tensor, name, (-1,))
    dtype = float_dtype(name)
    if how == "truncated" and dtype.itemsize == 1:
        return lambda tensor: truncated(tensor, dtype)
    if how:
        raise InputError(
            f"A cache cannot be {value!r}.", "After the colon: scaled, per_token, truncated."
        )
    return lambda tensor: rounded(tensor, dtype)


def _plain_dtype(alteration: Alteration) -> Any:
    value = text(alteration)
    return None if ":" in value else float_dtype(value)
