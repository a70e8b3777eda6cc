"""What is read of a vLLM model: routers, and modules under transformers' names. Without vLLM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mismatch_lab.engines.vllm_routing import VllmRoutingTap
from mismatch_lab.engines.vllm_score import PrefillScorer

WEIGHTS = torch.tensor([[0.3, 0.7], [0.6, 0.4]])
IDS = torch.tensor([[2, 0], [1, 3]], dtype=torch.int32)


class Router:
    """Chooses experts 2 and 0 for one token, 1 and 3 for the other."""

    def select_experts(self, hidden_states: Tensor, router_logits: Tensor) -> tuple[Tensor, Tensor]:
        return WEIGHTS, IDS


class Part(nn.Module):
    def __init__(self, *sizes: int, **parts: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.output_sizes = list(sizes)
        for name, part in parts.items():
            setattr(self, name, part)


def moe() -> tuple[nn.Module, Router]:
    experts: Any = Part()
    experts.router = Router()
    layer = Part(block_sparse_moe=Part(gate=Part(), experts=experts))
    return Part(layers=nn.ModuleList([layer])), experts.router


def routed(logits: Tensor, called: bool = True) -> VllmRoutingTap:
    model, router = moe()
    tap = VllmRoutingTap(model)
    tap.start(2)
    with tap.attached():
        if called:
            router.select_experts(torch.zeros(2, 5), logits)
    return tap


def test_choices_are_ordered_by_the_routers_logits() -> None:
    logits = torch.tensor([[5.0, 1.0, 4.0, 0.0], [0.0, 1.0, 0.0, 2.0]])
    found = routed(logits).stacked()
    assert found is not None
    assert found[0].tolist() == [[[0, 2]], [[3, 1]]]
    assert found[1] is not None
    assert found[1].tolist() == [[row] for row in logits.tolist()]


def test_weights_in_place_of_logits_order_the_choices_and_are_no_logits() -> None:
    """vLLM's backend for transformers' own models hands on what their routers chose."""
    found = routed(WEIGHTS).stacked()
    assert found is not None
    assert found[0].tolist() == [[[0, 2]], [[1, 3]]]  # 0.7 before 0.3, 0.6 before 0.4
    assert found[1] is None


def test_a_router_that_is_not_asked_is_left_out_with_its_reason() -> None:
    tap = routed(torch.zeros(2, 4), called=False)
    assert tap.stacked() is None
    assert "model.layers.0.mlp.experts" in tap.unread()


def test_modules_get_transformers_names_and_fused_ones_are_taken_apart() -> None:
    attention = Part(qkv_proj=Part(4, 2, 2), o_proj=Part(), attn=Part())
    block = Part(gate=Part(), gate_up_proj=Part(8, 8))
    model = Part(
        embedding=nn.Embedding(3, 4),
        layers=nn.ModuleList([Part(attn=attention, mlp=block)]),
        norm=nn.LayerNorm(4),
    )
    layer = "model.layers.0"
    known = [
        "model.embed_tokens", "model.norm", layer,
        *(f"{layer}.self_attn{part}" for part in ("", ".q_proj", ".k_proj", ".v_proj", ".o_proj")),
        *(f"{layer}.mlp{part}" for part in ("", ".router", ".gate_up_proj")),
    ]  # fmt: skip
    tap = PrefillScorer(lambda *_: [], model, "model", 64, known).tap
    assert set(tap.modules) == {*known} - {
        f"{layer}.self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj")
    } | {f"{layer}.self_attn.qkv_proj"}
    (split,) = tap.splits.values()  # gate_up_proj is one on both sides
    assert {name.rsplit(".")[-1]: t.shape[-1] for name, t in split(torch.zeros(1, 8)).items()} == {
        "q_proj": 4, "k_proj": 2, "v_proj": 2,
    }  # fmt: skip
    assert tap.modules[f"{layer}.mlp.router"] is block.gate


def test_a_router_that_two_modules_hold_is_recorded_once() -> None:
    """vLLM 0.22 on a GPU: a block's router is that of what runs the block, too."""
    router = Router()
    runner, experts = Part(), Part()
    runner.router = experts.router = router  # type: ignore[assignment]
    experts.runner = runner
    tap = VllmRoutingTap(Part(layers=nn.ModuleList([Part(mlp=Part(experts=experts))])))
    tap.start(2)
    with tap.attached():
        router.select_experts(torch.zeros(2, 1), torch.zeros(2, 4))
    assert "select_experts" not in vars(router)
    stacked = tap.stacked()
    assert stacked is not None
    assert stacked[0].shape == (2, 1, 2)  # tokens, layers, choices
