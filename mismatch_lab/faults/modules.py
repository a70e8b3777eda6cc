"""The parts of a loaded model, transformers' or vLLM's: finding and replacing them."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

from mismatch_lab.errors import NotApplicableError

if TYPE_CHECKING:
    from torch import Tensor

    Routed = tuple[Tensor, Tensor, Tensor]
    """(logits [N, E], weights of the chosen [N, K], chosen [N, K]) as routers return them."""

Attention = Callable[..., tuple[Any, Any]]
"""transformers' attention interface: (module, q, k, v, mask, **options) -> (output, weights)."""

_planted = count()


def is_vllm(model: Any) -> bool:
    return type(model).__module__.startswith("vllm.")


def layers(model: Any) -> list[Any]:
    return list(model.model.layers)


def self_attention(layer: Any) -> Any:
    """The attention block; vLLM's GPT-OSS calls it `attn`."""
    return layer.self_attn if hasattr(layer, "self_attn") else layer.attn


def vllm_attention(model: Any) -> list[Any]:
    """vLLM's attention layer (the one with a kernel behind it) of every decoder layer."""
    return [self_attention(layer).attn for layer in layers(model)]


def routers(model: Any) -> list[Any]:
    """The routers, in layer order."""
    found = [getattr(layer.mlp, "router", getattr(layer.mlp, "gate", None)) for layer in moe(model)]
    return [router for router in found if router is not None]


def moe(model: Any) -> list[Any]:
    """Layers with experts.

    Raises:
        NotApplicableError: there are none.
    """
    found = [layer for layer in layers(model) if hasattr(layer.mlp, "experts")]
    if not found:
        raise NotApplicableError("The model has no experts.")
    return found


def norms(model: Any) -> list[Any]:
    """The norms between the blocks, in the order they run; those of queries and keys left out."""
    found = [
        child
        for layer in layers(model)
        for name, child in layer.named_children()
        if name.endswith("layernorm")
    ]
    return [*found, model.model.norm]


def rotary(model: Any) -> list[Any]:
    """Rotary embeddings, each once (vLLM's layers share them)."""
    named = model.named_modules()
    found = {id(m): m for n, m in named if n.rpartition(".")[2] == "rotary_emb"}
    return list(found.values())


def share_of(parts: list[Any], share: float) -> list[Any]:
    """The first of them, at least one: `share` of the whole list."""
    return parts[: max(1, round(share * len(parts)))]


def wrap_attention(chosen: list[Any], wrap: Callable[[Attention], Attention]) -> None:
    """Put `wrap(attention)` in the place of the attention function of some transformers layers.

    The function is named in the layer's config, and the masks are built from the model's: a copy
    for the layer alone leaves the masks as they are.
    """
    from transformers import AttentionInterface

    for layer in chosen:
        attention = layer.self_attn
        name = f"planted-{next(_planted)}"
        AttentionInterface.register(name, wrap(_attention_function(attention)))
        attention.config = copy.copy(attention.config)
        attention.config._attn_implementation_internal = name


def _attention_function(attention: Any) -> Attention:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    eager = sys.modules[type(attention).__module__].eager_attention_forward
    name = attention.config._attn_implementation
    function: Attention = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager)
    return function


def wrap_forward(module: Any, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put `wrap(forward)` in the place of a module's forward."""
    module.forward = wrap(module.forward)


def replace_router(router: Any, route: Callable[[Tensor], Routed]) -> None:
    """Put `route`, a function of [N, D] hidden states, in the place of a router's forward."""
    router.forward = lambda hidden: route(hidden.reshape(-1, hidden.shape[-1]))


def router_logits(router: Any, hidden: Tensor) -> Tensor:
    """[N, E] logits of [N, D] hidden states."""
    from torch.nn import functional

    return functional.linear(hidden, router.weight, getattr(router, "bias", None))


def weights_of(router: Any, logits: Tensor, chosen: Tensor) -> Tensor:
    """[N, K] weights of the chosen experts; GPT-OSS's softmax is over the chosen alone."""
    if getattr(router, "norm_topk_prob", True):
        return logits.gather(-1, chosen).float().softmax(-1).to(logits.dtype)
    return logits.float().softmax(-1).gather(-1, chosen).to(logits.dtype)


def best(router: Any, logits: Tensor) -> Tensor:
    """[N, K] the experts with the largest logits, best first."""
    return logits.topk(router.top_k, dim=-1).indices
