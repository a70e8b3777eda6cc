"""Routing replay: routers of a transformers MoE choose the experts that another capture chose.

Everything else is the model's own: router logits, the weights of the chosen experts as the router
makes them of these logits, and the experts. See https://arxiv.org/abs/2510.11370 (R3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mismatch_lab.captures.capture import Rows
from mismatch_lab.engines.torch_batch import Batch
from mismatch_lab.errors import InputError


class RoutingReplay:
    """Replays recorded choices. Routers that call `torch.topk` for them can be replayed."""

    def __init__(self, routers: dict[str, nn.Module], choices: NDArray[np.int16]) -> None:
        """Args:
            routers: in layer order.
            choices: [T, L, K] experts of each token as input; -1 leaves the router its own.

        Raises:
            InputError: the choices are of another number of layers.
        """
        if choices.shape[1] != len(routers):
            raise InputError(
                f"Routing of {choices.shape[1]} layers was recorded, the model has {len(routers)}."
            )
        self.routers = list(routers.values())
        self.choices = torch.from_numpy(choices.astype(np.int64))
        self._now: Tensor | None = None

    @classmethod
    def of_batch(cls, routers: dict[str, nn.Module], choices: Tensor) -> RoutingReplay:
        """Replays the choices of one batch, [B, n, L, K], laid out as its tokens are."""
        flat = choices.flatten(0, 1)
        replay = cls(routers, flat.cpu().numpy().astype(np.int16))
        replay._now = flat
        return replay

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Routers follow `self` inside the block."""
        with ExitStack() as stack:
            for layer, router in enumerate(self.routers):
                stack.callback(_put_back, router, vars(router).get("forward"))
                router.forward = self._following(layer, router.forward)
            yield

    def place(self, rows: Rows, chosen_rows: list[int], batch: Batch) -> None:
        """Lay the choices out as the batch lays out its tokens."""
        forced = torch.full((*batch.ids.shape, *self.choices.shape[1:]), -1)
        for row, (i, start, stop) in zip(chosen_rows, batch.places, strict=True):
            first = int(rows.row_offsets[row])
            forced[i, start:stop] = self.choices[first : first + stop - start]
        self._now = forced.flatten(0, 1).to(batch.ids.device)

    def _following(self, layer: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def follow(*args: Any, **kwargs: Any) -> Any:
            assert self._now is not None
            with _topk_chosen(self._now[:, layer]):
                return forward(*args, **kwargs)

        return follow


def _put_back(router: nn.Module, own: Any) -> None:
    """What a plugin had set stays set."""
    if own is None:
        del router.forward
    else:
        router.forward = own


@contextmanager
def _topk_chosen(forced: Tensor) -> Iterator[None]:
    """`topk` of as many per token returns the forced entries in place of the largest."""
    function, method = torch.topk, Tensor.topk

    def chosen(values: Tensor, k: int, *args: Any, **kwargs: Any) -> Any:
        own = function(values, k, *args, **kwargs)
        if k != forced.shape[-1] or values.numel() // values.shape[-1] != len(forced):
            return own  # the first stage of a choice by groups
        ids = forced.reshape(own.indices.shape).to(own.indices)
        ids = torch.where(ids >= 0, ids, own.indices)
        return torch.return_types.topk((values.gather(-1, ids), ids))

    torch.topk, Tensor.topk = chosen, chosen  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.topk, Tensor.topk = function, method  # type: ignore[method-assign]
