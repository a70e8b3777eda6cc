"""Bytes of tensors alive on a CPU, which has no allocator that tells."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what operations return while the mode is on; what a kernel frees itself is unseen."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self.largest = 0
        self._known: weakref.WeakValueDictionary[int, UntypedStorage] = (
            weakref.WeakValueDictionary()
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):  # what was there before is not counted
            storage = tensor.untyped_storage()
            self._known[storage._cdata] = storage
        out = func(*args, **kwargs)
        for tensor in _tensors(out):
            self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: UntypedStorage) -> None:
        if self._known.get(storage._cdata) is not None:
            return
        size = storage.nbytes()
        self._known[storage._cdata] = storage
        weakref.finalize(storage, self._forget, size)
        self.now += size
        self.peak = max(self.peak, self.now)
        self.largest = max(self.largest, size)

    def _forget(self, size: int) -> None:
        self.now -= size


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
