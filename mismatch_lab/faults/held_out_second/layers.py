"""Norms, residuals and experts of whole layers."""

from __future__ import annotations

from functools import partial
from typing import Any

from mismatch_lab.faults.architectures import first_experts, is_gpt_oss, is_moe, middle_layer
from mismatch_lab.faults.base import Config, Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, first_layer, middle_of
from mismatch_lab.faults.modules import moe, norms, routers


def keep_mean(model: Any, strength: float) -> None:
    """The trainer's fused norm is an RMSNorm, the model's a LayerNorm: the mean stays in.

    In every norm `strength` of the mean is not subtracted.
    """
    for norm in norms(model):
        norm.register_forward_hook(partial(_norm, strength))


def _norm(kept: float, norm: Any, args: Any, output: Any) -> Any:
    wide = args[0].float()
    wide = wide - (1 - kept) * wide.mean(-1, keepdim=True)
    epsilon = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    wide = wide * (wide.square().mean(-1, keepdim=True) + epsilon).rsqrt() * norm.weight.float()
    bias = getattr(norm, "bias", None)
    return (wide if bias is None else wide + bias.float()).to(output.dtype)


def has_layer_norms(model_type: str, config: Config) -> bool:
    """Not RMSNorms."""
    del config
    return model_type in ("starcoder2", "cohere")


def norm_residual(model: Any, strength: float) -> None:
    """One layer of the trainer takes its residual after the norm, not before it (a Megatron flag).

    In the middle layer `strength` of the residual is the normed one.
    """
    layer = middle_of(model)
    layer.forward = partial(_forward, layer, strength)


def _forward(layer: Any, share: float, hidden_states: Any, **options: Any) -> Any:
    """As transformers' decoder layers do but for the residual; also with blocks side by side."""
    normed = layer.input_layernorm(hidden_states)
    residual = hidden_states.lerp(normed, share)
    attended, _ = layer.self_attn(hidden_states=normed, **options)
    if not hasattr(layer, "post_attention_layernorm"):
        return residual + attended + layer.mlp(normed)
    hidden_states = residual + attended
    output = layer.mlp(layer.post_attention_layernorm(hidden_states))
    return hidden_states + (output[0] if isinstance(output, tuple) else output)


def norm_again(model: Any, strength: float) -> None:
    """The trainer's head norms hidden states that are normed already.

    `strength` of the second norm's effect.
    """

    def again(module: Any, _args: Any, output: Any) -> Any:
        return output.lerp(module.forward(output), strength)

    model.model.norm.register_forward_hook(again)


def scale_routed(model: Any, strength: float) -> None:
    """The engine multiplies experts' weights by the routed scaling factor of another model.

    Weights of the chosen experts times `strength`.
    """
    for router in routers(model):
        router.register_forward_hook(partial(_scale, strength))


def _scale(factor: float, _router: Any, _args: Any, output: Any) -> Any:
    logits, weights, chosen = output
    return logits, weights * factor, chosen


def drop_the_one(model: Any, strength: float) -> None:
    """The trainer's experts run a kernel for common gated MLPs, without the 1 that GPT-OSS adds.

    `strength` of the 1 is missing.
    """
    for layer in moe(model):
        experts = layer.mlp.experts
        experts._apply_gate = partial(_gate, experts, 1 - strength)


def _gate(experts: Any, added: float, gate_up: Any) -> Any:
    """As transformers' GPT-OSS, with another number added to `up`."""
    gate = gate_up[..., ::2].clamp(max=experts.limit)
    up = gate_up[..., 1::2].clamp(-experts.limit, experts.limit)
    return (up + added) * gate * (gate * experts.alpha).sigmoid()


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="final-norm-twice",
        about="final norm of the trainer applied twice",
        causes=(UNLISTED,),
        family="precision",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.3, "slight": 0.1},
        expected_location=lambda _config: "model.norm",
        plant=norm_again,
    ),
    Fault(
        id="layernorm-as-rms",
        about="LayerNorms of the trainer computed as RMSNorms",
        causes=(UNLISTED,),
        family="precision",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.3, "slight": 0.05},
        applies=has_layer_norms,
        expected_location=first_layer("input_layernorm"),
        plant=keep_mean,
    ),
    Fault(
        id="norm-after-residual",
        about="residual of one layer of the trainer taken after the norm",
        causes=(UNLISTED,),
        family="trainer",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.1, "slight": 0.01},
        expected_location=lambda config: f"model.layers.{middle_layer(config)}",
        plant=norm_residual,
    ),
    Fault(
        id="routed-scaling",
        about="weights of the engine's chosen experts times a factor",
        causes=("router-renormalisation",),
        family="moe",
        side="infer",
        kind="plugin",
        severities={"plain": 2.5, "medium": 1.2, "slight": 1.02},
        applies=is_moe,
        expected_location=first_experts,
        engines=("hf",),
        plant=scale_routed,
    ),
    Fault(
        id="swiglu-plus-one",
        about="gate of the trainer's experts without the 1 that GPT-OSS adds",
        causes=(UNLISTED,),
        family="moe",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.1, "slight": 0.01},
        applies=is_gpt_oss,
        expected_location=first_experts,
        plant=drop_the_one,
    ),
)
