"""Errors of each way against eager in float64: output and all gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mismatch_lab.remedies.grouped_experts.bench.layer import (
    Setting,
    choose,
    make_input,
    make_layer,
)
from mismatch_lab.remedies.grouped_experts.bench.ways import WAYS


@dataclass(frozen=True)
class Accuracy:
    """Relative errors (norm of the difference over the norm) of one way in eval mode."""

    way: str
    tokens: int
    errors: dict[str, float] | None
    note: str = ""


def measure_accuracy(setting: Setting, tokens: int) -> Iterator[Accuracy]:
    """Every way that runs, with experts chosen once for all."""
    layer = make_layer(setting).eval()
    hidden = make_input(setting, tokens).detach()[0]
    with torch.no_grad():
        _, routing, chosen = layer.router(hidden)
    found: dict[str, dict[str, Tensor] | str] = {}
    dout = make_input(setting, tokens).detach()[0].flip(0)
    for way in WAYS:
        try:
            found[way] = _run(layer, way, (hidden, routing, dout), chosen)
        except Exception as error:  # one way that fails is a result too
            found[way] = f"{type(error).__name__}: {str(error)[:300]}"
    exact = _run(
        layer.double(), "eager", tuple(x.double() for x in (hidden, routing, dout)), chosen
    )
    for way, got in found.items():
        if isinstance(got, str):
            yield Accuracy(way, tokens, None, got)
            continue
        errors = {name: float((got[name] - x).norm() / x.norm()) for name, x in exact.items()}
        yield Accuracy(way, tokens, errors)


def _run(layer: Any, way: str, given: tuple[Tensor, ...], chosen: Tensor) -> dict[str, Tensor]:
    """Output and gradients, by name; given are hidden, routing and the output's gradient."""
    choose(layer, way)
    hidden, routing = (x.clone().requires_grad_() for x in given[:2])
    named = dict(layer.experts.named_parameters())
    out = layer.experts(hidden, chosen, routing)
    grads = torch.autograd.grad(out, [hidden, routing, *named.values()], given[2])
    return dict(zip(["out", "hidden", "routing", *named], [out.detach(), *grads], strict=True))
