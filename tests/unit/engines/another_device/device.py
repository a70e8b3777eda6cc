"""A second device on a machine that has none: what mixes the two raises, as CUDA would.

Tensors "on" it are wrappers that say `elsewhere` and compute on the CPU. Kernels, speed and
rounding are not CUDA's; that tensors meet on one device is. A process that imports this has an
accelerator for torch from then on, so tests give it one of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend(rename="elsewhere")
DEVICE = torch.device("elsewhere", 0)
INDEXING = ("aten::index.", "aten::index_put")
MAY_MIX = ("aten::copy_", "aten::_to_copy", "aten::set_", *INDEXING)
"""Operators that move values, or whose indices may be on the CPU."""


class There(torch.Tensor):
    """A tensor that says it is on the other device, around one that is here."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> There:
        there: There = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        there.inner = inner
        return there

    @classmethod
    def __torch_dispatch__(cls, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})

    @property
    def data(self) -> torch.Tensor:
        """Values without history; assigned, they take the place of these."""
        return self.detach()

    @data.setter
    def data(self, values: There) -> None:
        self.inner = values.inner

    def tolist(self) -> Any:
        """As of any tensor; torch refuses it of its subclasses."""
        return self.inner.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"There({self.inner!r})"


class AnotherDevice(TorchDispatchMode):
    """While active, DEVICE is one that can be allocated on."""

    def __enter__(self) -> Any:
        self._factories = _Factories()
        self._factories.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._factories.__exit__(*error)

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


class _Factories(TorchFunctionMode):
    """`torch.tensor` builds its values below what a dispatch mode sees."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and given.get("device"):
            device = given.pop("device")
            return func(*args, **given).to(device)
        return func(*args, **given)


def dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run one operator here; its results are there where its tensors or its `device` are.

    Raises:
        RuntimeError: it mixes devices.
    """
    tensors: list[torch.Tensor] = []
    tree_map_only(torch.Tensor, tensors.append, (args, kwargs))
    there = [t for t in tensors if isinstance(t, There)]
    name = str(func.name())
    if there:
        _refuse_strangers(name, tensors, args)
    is_there = bool(there)
    if kwargs.get("device") is not None:
        is_there = torch.device(kwargs["device"]).type == DEVICE.type
        if is_there:
            kwargs = {**kwargs, "device": torch.device("cpu")}
    elif name.startswith(("aten::copy_", "aten::set_")):
        is_there = isinstance(args[0], There)
    found = func(*_inner(args), **_inner(kwargs))
    if not is_there:
        return found
    whose = {id(t.inner): t for t in there}
    return tree_map_only(torch.Tensor, lambda x: _as_there(x, whose), found)


def _as_there(tensor: torch.Tensor, whose: dict[int, There]) -> There:
    """What worked in place hands back the tensor that it was given."""
    return whose[id(tensor)] if id(tensor) in whose else There(tensor)


def _inner(given: Any) -> Any:
    return tree_map(lambda x: x.inner if isinstance(x, There) else x, given)


def _refuse_strangers(name: str, tensors: list[torch.Tensor], args: Any) -> None:
    """A tensor of one number may come from anywhere, as with CUDA."""
    if name.startswith(INDEXING):
        strange = not isinstance(args[0], There)
    else:
        strange = any(not isinstance(t, There) and t.dim() for t in tensors)
        strange = strange and not name.startswith(MAY_MIX)
    if strange:
        raise RuntimeError(f"{name}: tensors on {DEVICE} and on cpu")
