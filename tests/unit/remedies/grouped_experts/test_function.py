"""The sum over experts against transformers' eager, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mismatch_lab.remedies.grouped_experts import function
from mismatch_lab.remedies.grouped_experts.bench.layer import Setting, choose, make_layer
from mismatch_lab.remedies.grouped_experts.function import Layout, grouped_experts
from mismatch_lab.remedies.grouped_experts.interface import NAME, register
from mismatch_lab.remedies.grouped_experts.memory import LayerShape

SMALL = Setting(LayerShape(6, 10, 5, 2), torch.float64, "cpu")
TOKENS = 23


@pytest.mark.parametrize("rows", [3, 8192])
@pytest.mark.parametrize("training", [True, False])
def test_output_and_all_gradients_agree_with_eager(
    rows: int, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(function, "ROWS", rows)  # pieces of an expert, or all of it
    layer = make_layer(SMALL).train(training)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=2.0)  # beyond the gate's limit of 7 here and there
        layer.router.bias[3] = -1e9  # an expert that nobody chooses
    register()
    found = {way: _through_layer(layer, way) for way in ("eager", NAME)}
    assert len(found[NAME]) == 8  # output, input, router (2), experts (4)
    assert float(found["eager"]["experts.gate_up_proj"][3].abs().sum()) == 0.0
    for name, exact in found["eager"].items():
        assert float(exact.abs().sum()) > 0
        torch.testing.assert_close(found[NAME][name], exact, rtol=1e-12, atol=1e-12)


def _through_layer(layer: Any, way: str) -> dict[str, Tensor]:
    choose(layer, way)
    torch.manual_seed(3)
    x = torch.randn(1, TOKENS, 6, dtype=torch.float64, requires_grad=True)
    layer.zero_grad()
    out, _ = layer(x)
    out.backward(torch.randn_like(out))
    assert x.grad is not None
    grads = {name: p.grad.clone() for name, p in layer.named_parameters()}
    return {"out": out.detach(), "hidden": x.grad, **grads}


def test_gradcheck_with_untransposed_weights_and_no_bias() -> None:
    torch.manual_seed(0)
    layout = Layout(lambda x: torch.tanh(x[:, :4]) * x[:, 4:], transposed=False)
    shapes = [(5, 3), (5, 2), (3, 8, 3), (3, 3, 4)]
    hidden, routing, up, down = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    chosen = torch.tensor([[0, 2], [1, 0], [0, 1], [2, 1], [0, 2]])

    def run(hidden: Tensor, routing: Tensor, up: Tensor, down: Tensor) -> Tensor:
        return grouped_experts(layout, hidden, chosen, routing, up, None, down, None)

    assert torch.autograd.gradcheck(run, (hidden, routing, up, down))


def test_an_expert_of_another_rank_adds_nothing() -> None:
    layout = Layout(lambda x: x, transposed=True)
    hidden = torch.tensor([[1.0], [10.0]], requires_grad=True)
    routing = torch.tensor([[0.5, 0.25], [1.0, 2.0]], requires_grad=True)
    chosen = torch.tensor([[0, 2], [2, 1]])  # 2 is not here: there are two experts
    up, down = torch.tensor([[[2.0]], [[3.0]]]), torch.ones(2, 1, 1)
    out = grouped_experts(layout, hidden, chosen, routing, up, None, down, None)
    # 0.5 · 2 · 1 and 2 · 3 · 10
    assert out.tolist() == [[1.0], [60.0]]
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert routing.grad is not None
    assert hidden.grad.tolist() == [[1.0], [6.0]]
    assert routing.grad.tolist() == [[2.0, 0.0], [0.0, 30.0]]


def test_frozen_experts_get_no_gradient() -> None:
    layer = make_layer(SMALL)
    layer.experts.requires_grad_(False)
    register()
    choose(layer, NAME)
    x = torch.randn(1, TOKENS, 6, dtype=torch.float64, requires_grad=True)
    layer(x)[0].sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in layer.experts.parameters())
    assert layer.router.weight.grad is not None


def test_checkpointing_and_autocast() -> None:
    layer = make_layer(Setting(SMALL.shape, torch.float32, "cpu"))
    register()
    choose(layer, NAME)
    x = torch.randn(1, TOKENS, 6, requires_grad=True)
    plain = _gradient(layer(x)[0], x)
    again = torch.utils.checkpoint.checkpoint(lambda y: layer(y)[0], x, use_reentrant=False)
    assert torch.equal(_gradient(again, x), plain)
    chosen, routing = torch.zeros(TOKENS, 2, dtype=torch.long), torch.ones(TOKENS, 2)
    found = {}
    for way in (NAME, "eager"):
        choose(layer, way)
        with torch.autocast("cpu", torch.bfloat16):
            found[way] = layer.experts(x[0], chosen, routing).detach()
    limit = 0.02 * float(found["eager"].abs().max())  # bfloat16 has 8 bits
    torch.testing.assert_close(found[NAME], found["eager"], rtol=0.0, atol=limit)


def _gradient(out: Tensor, x: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(out.square().sum(), x)
    return grad


def test_wider_accumulation_for_half_precision() -> None:
    """Two experts of which each adds 1 and 2^-8: bfloat16 would lose the second at every step."""
    layout = Layout(lambda x: x, transposed=True)
    tiny = 2.0**-8
    hidden = torch.ones(1, 1, dtype=torch.bfloat16)
    up = torch.tensor([1.0, tiny, tiny], dtype=torch.bfloat16).view(3, 1, 1)
    chosen, routing = torch.tensor([[0, 1, 2]]), torch.ones(1, 3, dtype=torch.bfloat16)
    out = grouped_experts(layout, hidden, chosen, routing, up, None, nn.Parameter(up * 0 + 1), None)
    # 1 + 2^-8 + 2^-8 = 1 + 2^-7, which bfloat16 has; 1 + 2^-8 rounds to 1.
    assert out.item() == 1 + 2 * tiny
