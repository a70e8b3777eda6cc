"""vLLM's expert choices, read where its routers make them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mismatch_lab.captures.names import canonical_name


class VllmRoutingTap:
    """Wraps `select_experts` of every fused-MoE router.

    vLLM's own `enable_return_routed_experts` needs a GPU (0.32) and returns no logits.
    """

    def __init__(self, model: Any) -> None:
        self.routers: dict[str, Any] = {}
        """Each once: vLLM 0.22 holds one router in a block and in what runs it."""
        for name, module in model.named_modules():
            router = getattr(module, "router", None)
            known = any(router is each for each in self.routers.values())
            if hasattr(router, "select_experts") and not known:
                self.routers[canonical_name(name)] = router
        self.tokens = 0
        self.seen: dict[str, tuple[torch.Tensor, torch.Tensor | None]] = {}

    def start(self, tokens: int) -> None:
        """Begin a sequence of `tokens` tokens."""
        self.tokens, self.seen = tokens, {}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Wrapped inside the block, untouched after it."""
        for name, router in self.routers.items():
            router.select_experts = self._wrap(name, router.select_experts)
        try:
            yield
        finally:
            for router in self.routers.values():
                del router.select_experts

    def stacked(self) -> tuple[NDArray[np.int16], NDArray[np.float32] | None] | None:
        """([n, L, K] choices, best first; [n, L, E] logits, or None where routers are not handed
        them); None where `unread` says why.
        """
        if self.unread():
            return None
        pairs = [self.seen[name] for name in self.routers]
        chosen = torch.stack([ids for ids, _ in pairs], 1).to(torch.int16).numpy()
        logits = [each for _, each in pairs if each is not None]
        whole = torch.stack(logits, 1).float().numpy() if len(logits) == len(pairs) else None
        return chosen, whole

    def unread(self) -> str:
        """Why the choices of the last sequence cannot be read; empty where they can."""
        missing = [name for name in self.routers if name not in self.seen]
        if not missing:
            return ""
        return (
            f"vLLM routed inside a kernel in {missing[0]}: its choices cannot be read. Another "
            "--engine-arg moe_backend may route in the open."
        )

    def _wrap(self, name: str, select: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            weights, ids = select(*args, **kwargs)
            logits = kwargs.get("router_logits", args[1] if len(args) > 1 else None)
            if logits is not None and len(ids) == self.tokens and name not in self.seen:
                self.seen[name] = _best_first(ids.long(), weights, logits.detach())
            return weights, ids

        return wrapped


def _best_first(
    ids: torch.Tensor, weights: torch.Tensor, logits: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Choices [n, K] in the order of the logits, and the logits [n, E]. Where transformers' own
    router has chosen before (vLLM's backend for its models), K weights stand for the logits.
    """
    whole = int(ids.max()) < logits.shape[-1] != ids.shape[-1]
    by = logits.gather(-1, ids) if whole else weights
    order = by.argsort(dim=-1, descending=True, stable=True)
    return ids.gather(-1, order).cpu(), logits.clone().cpu() if whole else None
