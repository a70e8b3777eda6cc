"""Plugins: functions that get a side's torch module once its weights are loaded.

    mismatch-lab diagnose --trainer-plugin examples/plugins.py:drop_sinks --depth standard
    mismatch-lab diagnose --trainer-plugin examples/plugins.py:seed_case --depth standard
    mismatch-lab diagnose --engine-plugin examples/plugins.py:nudge_experts --depth standard
    mismatch-lab diagnose --engine-plugin examples/plugins.py:print_modules

Use one to try a patch on one side only, or to see what a fault looks like. A plugin changes the
module in place and returns nothing. On a side of transformers (`hf`, `fsdp`) it may return another
module, which is run instead: a wrapped or compiled one. vLLM keeps the module that it loaded, and
refuses a plugin that returns another.
"""

from typing import Any


def drop_sinks(model: Any) -> None:
    """A trainer whose attention kernel ignores GPT-OSS's sinks: LinkedIn's bug."""
    for layer in model.model.layers:
        layer.self_attn.sinks.data.fill_(-1e4)


def seed_case(model: Any) -> None:
    """What LinkedIn's team met at once: sinks ignored, and routers that choose other experts in the
    pass that takes gradients than in the one that scores.
    """
    drop_sinks(model)
    for layer in model.model.layers:
        layer.mlp.router.register_forward_hook(_other_choice_in_training)


def _other_choice_in_training(router: Any, args: tuple[Any, ...], output: Any) -> Any:
    """Where the last chosen expert and the next one are close, take the other."""
    import torch

    logits, _, chosen = output
    if not router.training:
        return None
    top, order = logits.topk(router.top_k + 1, dim=-1)
    close = (top[:, -2] - top[:, -1] < 0.3)[:, None]
    chosen = torch.cat([order[:, :-2], torch.where(close, order[:, -1:], order[:, -2:-1])], dim=-1)
    weights = torch.softmax(logits.gather(1, chosen), dim=-1)
    return logits, weights.to(output[1].dtype), chosen


def compiled(model: Any) -> Any:
    """A trainer that runs what torch.compile makes of its module, traced and not optimised."""
    import torch

    return torch.compile(model, backend="aot_eager")


def nudge_experts(model: Any) -> None:
    """vLLM: noise of 5 % of its deviation on the experts' second matrices of layer 2."""
    import torch

    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("layers.2.mlp.experts.routed_experts.w2_weight"):
            noise = torch.randn(parameter.shape).to(parameter.dtype)
            parameter.data.add_(0.05 * parameter.data.float().std() * noise)
            return
    raise LookupError("layer 2 has no experts")


def scale_v(model: Any) -> None:
    """vLLM: the value projection of layer 1, the last rows of the fused one, 5 % too large."""
    layer = model.model.layers[1]
    attention = layer.self_attn if hasattr(layer, "self_attn") else layer.attn
    attention.qkv_proj.weight.data[-attention.kv_size :].mul_(1.05)


def print_modules(model: Any) -> None:
    """What there is to patch; it goes to the side's log in the run folder."""
    for name, parameter in model.named_parameters():
        print(name, tuple(parameter.shape))
