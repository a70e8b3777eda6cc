"""Hooks record what goes in and out of modules, and come off again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mismatch_lab.captures.structure import named_parts
from mismatch_lab.captures.taps import Tap


class Layer(nn.Module):
    """x -> x + 10 * (x * 2): the attention doubles, the MLP gives ten times that."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = Times(2.0)
        self.mlp = Times(10.0)
        self.fail = False

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        doubled = self.self_attn(hidden_states=x)[0]
        if self.fail:
            raise RuntimeError("in the middle")
        return x + self.mlp(doubled)[0], None


class Times(nn.Module):
    """Returns a tuple, as attention modules do."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, None]:
        return hidden_states * self.factor, None


class Toy(nn.Module):
    """Two layers: 1 -> 21 -> 441."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(), Layer()])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)[0]
        return x


# One sequence of three tokens of two features each.
INPUT = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])


def hooks_on(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def tap_of(model: nn.Module, tokens: int = 3, **more: Any) -> Tap:
    """A tap on every part of the model that has run two short sequences of ones."""
    tap = Tap(named_parts(model), **more)
    batch = (1,) if tokens == 3 else ()
    with tap.attached():
        tap.axes.learn(tokens, lambda n: model(torch.ones(*batch, n, 2 if batch else 1)))
    return tap


def test_inputs_and_outputs_are_recorded_at_the_kept_positions() -> None:
    model = Toy()
    tap = tap_of(model)
    with tap.attached():
        tap.start(3, torch.tensor([0, 2]))
        output = model(INPUT)
    torch.testing.assert_close(output, 441 * INPUT)
    at = {name: tensor.tolist() for name, tensor in tap.recorded().items()}
    assert at["model.layers.0:in"] == [[1, 2], [5, 6]]
    assert at["model.layers.0.self_attn:in"] == [[1, 2], [5, 6]]
    assert at["model.layers.0.self_attn"] == [[2, 4], [10, 12]]
    assert at["model.layers.0.mlp"] == [[20, 40], [100, 120]]
    assert at["model.layers.0"] == [[21, 42], [105, 126]]
    assert at["model.layers.1:in"] == at["model.layers.0"]
    assert at["model.layers.1"] == [[441, 882], [2205, 2646]]
    assert len(at) == 12


def test_a_forward_of_other_tokens_is_not_recorded() -> None:
    model = Toy()
    tap = tap_of(model)
    with tap.attached():
        tap.start(4, torch.tensor([0]))  # a sequence of four is waited for
        model(INPUT)
        assert tap.recorded() == {}
        tap.keep = None
        model(INPUT)
        assert tap.recorded() == {}


def test_the_first_forward_of_a_sequence_counts() -> None:
    model = Toy()
    tap = tap_of(model)
    with tap.attached():
        tap.start(3, torch.tensor([0]))
        model(INPUT)
        model(INPUT + 100)
    assert tap.recorded()["model.layers.0:in"].tolist() == [[1, 2]]


def test_a_replay_feeds_every_module_the_inputs_it_is_given() -> None:
    model = Toy()
    tap = tap_of(model)
    other = torch.tensor([[100.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    keep = torch.arange(3)
    replay = {"model.layers.1.self_attn:in": other, "model.layers.1.mlp:in": other + 1}
    with tap.attached():
        tap.start(3, keep, replay)
        model(INPUT)
    # Twice what it was given, not twice 21 times the input; and the MLP not ten times that.
    assert tap.recorded()["model.layers.1.self_attn"][0].tolist() == [200, 0]
    assert tap.recorded()["model.layers.1.mlp"][0].tolist() == [1010, 10]
    assert tap.recorded()["model.layers.0"][0].tolist() == [21, 42]
    assert tap.recorded()["model.layers.1.mlp:in"][0].tolist() == [101, 1]


def test_hooks_come_off_also_after_an_exception() -> None:
    model = Toy()
    tap = tap_of(model)
    model.layers[1].fail = True

    def run() -> None:
        with tap.attached():
            assert hooks_on(model) == 12
            tap.start(3, torch.arange(3))
            model(INPUT)

    with pytest.raises(RuntimeError, match="in the middle"):
        run()
    assert hooks_on(model) == 0
    assert "model.layers.1.self_attn" in tap.recorded()
    assert "model.layers.1.mlp" not in tap.recorded()


class FusedNorm(nn.Module):
    """As in vLLM: the residual is added to the input, and goes on beside the output."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = x if residual is None else x + residual
        return total / 4, total


class FusedLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = FusedNorm()
        self.mlp = Times(10.0)

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        normed, residual = self.input_layernorm(x, residual)
        return self.mlp(normed)[0], residual


class FusedToy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([FusedLayer(), FusedLayer()])

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor | None = None
        for layer in self.layers:
            x, residual = layer(x, residual)
        assert residual is not None
        return x + residual


def test_residuals_carried_beside_are_added() -> None:
    """[2, 1] tokens of value 4 and 8, flat as vLLM hands them.

    Layer 0 takes 4 and gives 10 * 4 / 4 = 10 beside 4: 14 in all. Layer 1's norm takes 14 and
    gives 14 / 4 = 3.5; the layer gives 35 beside 14: 49. Token 1 has twice of everything.
    """
    model = FusedToy()
    tap = tap_of(model, 2, residual_layers=True)
    with tap.attached():
        tap.start(2, torch.arange(2))
        output = model(torch.tensor([[4.0], [8.0]]))
    at = {name: tensor.flatten().tolist() for name, tensor in tap.recorded().items()}
    assert output.flatten().tolist() == [49, 98]
    assert at["model.layers.0:in"] == [4, 8]
    assert at["model.layers.0"] == at["model.layers.1:in"] == [14, 28]
    assert at["model.layers.1.input_layernorm:in"] == [14, 28]
    assert at["model.layers.1.input_layernorm"] == [3.5, 7]
    assert at["model.layers.1.mlp"] == [35, 70]
    assert at["model.layers.1"] == [49, 98]


class CarryingNorm(nn.Module):
    """As vLLM's for Cohere: the residual is no part of the input, and goes on as it came."""

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        return x / 4, residual


class CarryingLayer(nn.Module):
    """Its output is the whole stream, the residual beside it is what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = CarryingNorm()
        self.mlp = Times(10.0)

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        normed, residual = self.input_layernorm(x, x)
        return residual + self.mlp(normed)[0], residual


def test_residuals_that_norms_only_hand_on_are_not_added() -> None:
    """Layer 0 takes 4 and gives 4 + 10 * 4 / 4 = 14, layer 1 takes that and gives 14 + 35 = 49."""
    model = FusedToy()
    model.layers = nn.ModuleList([CarryingLayer(), CarryingLayer()])
    model.forward = lambda x: model.layers[1](*model.layers[0](x, None))[0]  # type: ignore[method-assign]
    tap = tap_of(model, 2, residual_layers=True)
    with tap.attached():
        tap.start(2, torch.arange(2))
        output = model(torch.tensor([[4.0], [8.0]]))
    at = {name: tensor.flatten().tolist() for name, tensor in tap.recorded().items()}
    assert output.flatten().tolist() == [49, 98]
    assert at["model.layers.0"] == at["model.layers.1:in"] == [14, 28]
    assert at["model.layers.1.input_layernorm:in"] == [14, 28]
    assert at["model.layers.1.mlp"] == [35, 70]
    assert at["model.layers.1"] == [49, 98]


def test_fused_outputs_are_taken_apart() -> None:
    model = Toy()
    name = "model.layers.0.self_attn"
    split = {name: lambda fused: {"left": fused[..., :1], "right": fused[..., 1:]}}
    tap = tap_of(model, splits=split)
    with tap.attached():
        tap.start(3, torch.tensor([1]))
        model(INPUT)
    assert tap.recorded()["left"].tolist() == [[6]]
    assert tap.recorded()["right"].tolist() == [[8]]
    assert tap.recorded()["left:in"].tolist() == tap.recorded()["right:in"].tolist() == [[3, 4]]
    assert name not in tap.recorded()


class TwoInputs(nn.Module):
    """Experts: handed logits beside the hidden state, of the same shape by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        return x * logits


class TwoInputsLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = TwoInputs()

    def forward(self, x: Tensor) -> Tensor:
        return self.experts(x, x + 1)  # type: ignore[no-any-return]


def test_what_is_handed_beside_to_others_than_norms_is_no_residual() -> None:
    model = Toy()
    model.layers = nn.ModuleList([TwoInputsLayer()])
    model.forward = lambda x: model.layers[0](x)  # type: ignore[method-assign]
    tap = tap_of(model, 2, residual_layers=True)
    with tap.attached():
        tap.start(2, torch.arange(2))
        model(torch.tensor([[4.0], [8.0]]))
    assert tap.recorded()["model.layers.0.experts:in"].flatten().tolist() == [4, 8]


class PlainNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 4


class PostNormLayer(nn.Module):
    """As vLLM's EXAONE-4: hands on the whole stream, beside a residual that is in it already."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = Times(10.0)
        self.post_feedforward_layernorm = PlainNorm()

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        return x + self.post_feedforward_layernorm(self.mlp(x)[0]), x


class PostNormToy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([PostNormLayer(), PostNormLayer()])
        self.norm = PlainNorm()

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor | None = None
        for layer in self.layers:
            x, residual = layer(x, residual)
        return self.norm(x)  # type: ignore[no-any-return]


def test_a_residual_that_no_norm_is_handed_is_not_added() -> None:
    """4 becomes 4 + 40 / 4 = 14, and 14 becomes 14 + 140 / 4 = 49."""
    model = PostNormToy()
    tap = tap_of(model, 2, residual_layers=True)
    with tap.attached():
        tap.start(2, torch.arange(2))
        model(torch.tensor([[4.0], [8.0]]))
    at = {name: tensor.flatten().tolist() for name, tensor in tap.recorded().items()}
    assert at["model.layers.0"] == at["model.layers.1:in"] == [14, 28]
    assert at["model.layers.1"] == at["model.norm:in"] == [49, 98]


class Heads(nn.Module):
    """Splits [1, n, 6] into heads of 2 features, as [1, 3, n, 2], and norms each."""

    def __init__(self) -> None:
        super().__init__()
        self.q_norm = PlainNorm()

    def forward(self, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (3, 2)).transpose(1, 2)
        return self.q_norm(heads).transpose(1, 2).flatten(2)  # type: ignore[no-any-return]


class HeadsToy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.Module()
        layer.self_attn = Heads()
        layer.forward = layer.self_attn.forward  # type: ignore[method-assign]
        self.layers = nn.ModuleList([layer])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0].self_attn(x)  # type: ignore[no-any-return]


def test_as_many_heads_as_tokens_are_told_apart() -> None:
    """[1, 3 heads, 3 tokens, 2]: token t has features 6t to 6t + 5, in the order of its heads."""
    model = HeadsToy()
    tap = Tap(named_parts(model))
    with tap.attached():
        tap.axes.learn(3, lambda n: model(torch.ones(1, n, 6)))
        tap.start(3, torch.arange(3))
        model(torch.arange(18.0).reshape(1, 3, 6) * 4)
    name = "model.layers.0.self_attn.q_norm"
    tokens = torch.arange(18.0).reshape(3, 6)
    torch.testing.assert_close(tap.recorded()[name], tokens)
    torch.testing.assert_close(tap.recorded()[f"{name}:in"], 4 * tokens)
    # The other way round: what is fed in its place goes to the same heads of the same tokens.
    with tap.attached():
        tap.start(3, torch.arange(3), {f"{name}:in": 8 * tokens})
        output = model(torch.zeros(1, 3, 6))
    torch.testing.assert_close(output[0], 2 * tokens)


def test_a_replayed_input_of_another_size_is_refused() -> None:
    model = Toy()
    tap = tap_of(model)
    with tap.attached():
        tap.start(3, torch.arange(3), {"model.layers.0.mlp:in": torch.ones(3, 5)})
        model(INPUT)
    assert "model.layers.0.mlp" not in tap.recorded()
    assert "another size" in tap.unclear()["model.layers.0.mlp"]
