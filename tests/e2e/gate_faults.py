"""Faults for the gate, planted in transformers' GPT-OSS as a wrong patch would, one a function."""

from typing import Any

import torch


def scale_values(model: Any) -> None:
    """One value projection is a fifth too large, as after a wrong scale of a quantised one."""
    model.model.layers[1].self_attn.v_proj.weight.data.mul_(1.2)


def noise_output(model: Any) -> None:
    """Noise of a fifth of its deviation on one output projection: a tensor that came damaged."""
    _noise(model.model.layers[2].self_attn.o_proj.weight)


def noise_experts(model: Any) -> None:
    """The same on the second matrices of one layer's experts."""
    _noise(model.model.layers[1].mlp.experts.down_proj)


def forget_router_bias(model: Any) -> None:
    """Routers without their biases: a key that a loader left out."""
    for layer in model.model.layers:
        layer.mlp.router.bias.data.zero_()


def scale_logits(model: Any) -> None:
    """Logits a tenth too large."""
    model.lm_head.weight.data.mul_(1.1)


def slow_rotary(model: Any) -> None:
    """Rotary angles a tenth too small: another base than the checkpoint's."""
    model.model.rotary_emb.inv_freq.mul_(0.9)


def _noise(weight: Any) -> None:
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    weight.data.add_(0.2 * weight.data.float().std() * noise.to(weight))
