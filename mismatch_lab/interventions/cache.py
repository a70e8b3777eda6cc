"""Suspected defects of the key-value cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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


@contextmanager
def kv_dtype(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Keys (after RoPE) and values as they come back from a cache of a narrower format.

    Value: a dtype, for a scale of 1; `DTYPE:scaled`, for one that takes the largest magnitude of
    the tensor to the format's largest; `DTYPE:per_token`, for such a scale of every token and head;
    or `DTYPE:truncated`, for a scale of 1 and fp8 numbers cut off towards zero (vLLM's CPU backend,
    0.32).
    """
    narrow = _narrowing(text(alteration))
    if next(model.parameters()).dtype == _plain_dtype(alteration):
        raise NotApplicableError("Keys and values have that dtype already.")

    def cached(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        inner = kwargs.get("past_key_values")
        return args, kwargs | {"past_key_values": NarrowCache(inner, narrow)}

    modules = attentions(model, alteration).values()
    with hooks(m.register_forward_pre_hook(cached, with_kwargs=True) for m in modules):
        yield


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
