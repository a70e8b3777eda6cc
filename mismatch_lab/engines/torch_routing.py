"""Router choices of transformers MoE models, through hooks on their routers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mismatch_lab.captures.structure import named_parts

ROUTER_NAMES = ("mlp.router", "mlp.gate")


def find_routers(model: nn.Module) -> dict[str, nn.Module]:
    """Routers by canonical name, in layer order; empty for a dense model.

    A gated dense MLP has a `gate_proj`, never a `gate`, so the names are enough; what a router
    returns is checked when it runs.
    """
    return {n: m for n, m in named_parts(model).items() if n.endswith(ROUTER_NAMES)}


class RoutingTap:
    """Collects logits [B·n, E] and chosen experts [B·n, K] of every router in one forward."""

    def __init__(self, model: nn.Module, top_k: int) -> None:
        self.routers = find_routers(model)
        self.top_k = top_k
        self.logits: dict[str, Tensor] = {}
        self.chosen: dict[str, Tensor] = {}

    @contextmanager
    def attached(self) -> Iterator[RoutingTap]:
        """Hooks are there inside the block and gone after it."""
        handles = [m.register_forward_hook(self._hook(n)) for n, m in self.routers.items()]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def stacked(self) -> tuple[Tensor, Tensor]:
        """([B·n, L, K] choices, best first; [B·n, L, E] logits).

        K is the largest of all layers; a layer that chooses fewer has its last choice repeated.
        """
        names = list(self.routers)
        most = max(self.chosen[n].shape[-1] for n in names)
        return (
            torch.stack([_padded(self.chosen[n], most) for n in names], dim=1),
            torch.stack([self.logits[n] for n in names], dim=1),
        )

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            parts = [p.detach() for p in (output if isinstance(output, tuple) else (output,))]
            # Some give weights of the chosen experts beside the logits, in any order: those of all
            # experts are the widest.
            wide = max((p for p in parts if p.is_floating_point()), key=lambda p: p.shape[-1])
            logits = wide.reshape(-1, wide.shape[-1])
            ids = [p for p in parts if not p.is_floating_point()]
            if ids:
                chosen = ids[0].reshape(len(logits), -1)
            else:
                chosen = logits.topk(self.top_k, dim=-1).indices
            # Best first by this side's own logits: top-1 then means the same on every side.
            order = logits.gather(-1, chosen).argsort(dim=-1, descending=True, stable=True)
            self.logits[name] = logits.float().cpu()
            self.chosen[name] = chosen.gather(-1, order).to(torch.int16).cpu()

        return hook


def _padded(chosen: Tensor, most: int) -> Tensor:
    missing = most - chosen.shape[-1]
    return torch.cat([chosen, chosen[:, -1:].expand(-1, missing)], dim=-1) if missing else chosen
