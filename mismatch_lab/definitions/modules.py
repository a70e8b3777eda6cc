"""The parts of a decoder layer, each as plain as torch allows.

Names of parameters are those of checkpoints. What is normalised, and every softmax, is computed in
float32 or wider, as all of these models are trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mismatch_lab.definitions.recipes import Config, Recipe, entry, scale_of
from mismatch_lab.definitions.rotary import RotaryEmbedding
from mismatch_lab.errors import NotDefinedError


def wide(tensor: Tensor) -> Tensor:
    """In float32, or as it is where that is narrower than what it has."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + eps) * (weight + offset)`, arXiv:1910.07467."""

    def __init__(self, shape: tuple[int, ...], eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.variance_epsilon = eps
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        given = wide(x)
        scaled = given * (given.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()
        return (scaled * (wide(self.weight) + self.offset)).to(x.dtype)


class LayerNorm(nn.Module):
    """`(x - mean(x)) / sqrt(var(x) + eps) * (weight + offset) + bias`, arXiv:1607.06450."""

    def __init__(self, shape: tuple[int, ...], eps: float, offset: float, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape)) if bias else None
        self.eps = eps
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        centred = wide(x) - wide(x).mean(-1, keepdim=True)
        scaled = centred * (centred.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        scaled = scaled * (wide(self.weight) + self.offset)
        return (scaled if self.bias is None else scaled + wide(self.bias)).to(x.dtype)


class Attention(nn.Module):
    """Softmax attention of grouped queries, with what the recipe adds to it."""

    def __init__(
        self,
        config: Config,
        recipe: Recipe,
        rotary: RotaryEmbedding | None,
        window: int | None,
        norm: Callable[[tuple[int, ...]], nn.Module],
        has: Callable[[str], bool],
        layer_idx: int,
    ) -> None:
        """Args:
        config: of the model.
        recipe: of the architecture.
        rotary: how this layer's queries and keys turn; None: they do not.
        window: keys that a query sees, its own included; None: all before it.
        norm: makes a norm of a shape.
        has: whether the checkpoint has a tensor of this module, such as `q_proj.bias`.
        layer_idx: number of the layer.
        """
        super().__init__()
        self.layer_idx = layer_idx
        hidden = int(entry(config, "hidden_size"))
        self.heads = int(entry(config, "num_attention_heads"))
        self.groups = int(entry(config, "num_key_value_heads", self.heads))
        self.head_dim = int(entry(config, "head_dim", hidden // self.heads))
        self.scaling = scale_of(config, recipe.attention_scale, self.head_dim**-0.5)
        cap = config.get(recipe.attention_softcap) if recipe.attention_softcap else None
        self.attn_logit_softcapping = None if cap is None else float(cap)
        self.sliding_window = window
        self._rotary = (rotary,)  # the model's own: not a module of this one
        sizes = {"q": self.heads, "k": self.groups, "v": self.groups}
        sizes = {part: count * self.head_dim for part, count in sizes.items()}
        self.sizes = list(sizes.values())
        self.fused = recipe.fused_attention
        apart = {f"{part}_proj": size for part, size in sizes.items()}
        for name, size in ({self.fused: sum(self.sizes)} if self.fused else apart).items():
            self.add_module(name, nn.Linear(hidden, size, bias=has(f"{name}.bias")))
        self.o_proj = nn.Linear(self.sizes[0], hidden, bias=has("o_proj.bias"))
        self.whole_norm = recipe.qk_norm == "whole"
        if recipe.qk_norm != "none" and has("q_norm.weight"):
            for name, heads in (("q_norm", self.heads), ("k_norm", self.groups)):
                shapes = {
                    "head": (self.head_dim,),
                    "whole": (heads * self.head_dim,),
                    "heads": (heads, self.head_dim),
                }
                self.add_module(name, norm(shapes[recipe.qk_norm]))
        self.sinks = nn.Parameter(torch.empty(self.heads)) if recipe.sinks else None

    def forward(
        self, hidden_states: Tensor, cos: Tensor, sin: Tensor, past_key_values: Any = None
    ) -> Tensor:
        """[B, n, D], and [B, n, d / 2] of its positions, to [B, n, D]; rows are documents.

        What `past_key_values.update` makes of keys and values is attended to in their place.
        """
        batch, tokens, _ = hidden_states.shape
        query, key, value = self._projected(hidden_states)
        rotary = self._rotary[0]
        if rotary is not None:
            query, key = rotary.turn(query, cos, sin), rotary.turn(key, cos, sin)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value)
        shared = self.heads // self.groups
        key, value = (t.repeat_interleave(shared, dim=1) for t in (key, value))
        scores = wide(query @ key.transpose(-1, -2) * self.scaling)
        if self.attn_logit_softcapping is not None:
            cap = self.attn_logit_softcapping
            scores = torch.tanh(scores / cap) * cap
        scores = scores.masked_fill(~self._seen(tokens, scores.device), -math.inf)
        attended = self._mixed(scores, value).transpose(1, 2).reshape(batch, tokens, -1)
        return self.o_proj(attended)  # type: ignore[no-any-return]

    def _mixed(self, scores: Tensor, value: Tensor) -> Tensor:
        """Softmax of [B, H, n, n] scores times [B, H, n, D] values; a sink is one more score, whose
        value is 0.
        """
        highest = scores.amax(-1, keepdim=True)
        sinks = None if self.sinks is None else wide(self.sinks).view(1, -1, 1, 1)
        if sinks is not None:
            highest = highest.maximum(sinks)
        weights = (scores - highest).exp()
        total = weights.sum(-1, keepdim=True)
        if sinks is not None:
            total = total + (sinks - highest).exp()
        return (wide(weights.to(value.dtype) @ value) / total).to(value.dtype)

    def _projected(self, x: Tensor) -> list[Tensor]:
        """Queries, keys and values, normed: [B, heads, n, head_dim] each."""
        parts = (
            list(getattr(self, self.fused)(x).split(self.sizes, dim=-1))
            if self.fused
            else [getattr(self, f"{part}_proj")(x) for part in "qkv"]
        )
        for at, name in enumerate(("q_norm", "k_norm")):
            norm = getattr(self, name, None)
            if norm is None:
                continue
            if self.whole_norm:
                parts[at] = norm(parts[at])
            else:
                by_head = parts[at].unflatten(-1, (-1, self.head_dim))
                parts[at] = norm(by_head).flatten(-2)
        return [part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in parts]

    def _seen(self, tokens: int, device: torch.device) -> Tensor:
        """[n, n] bool."""
        at = torch.arange(tokens, device=device)
        distance = at[:, None] - at[None, :]
        width = tokens if self.sliding_window is None else self.sliding_window
        return (distance >= 0) & (distance < width)


class XIELU(nn.Module):
    """xIELU, arXiv:2411.13010, eq. 8, with its learnt slopes."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha_p = nn.Parameter(torch.empty(1))
        self.alpha_n = nn.Parameter(torch.empty(1))
        self.beta = nn.Parameter(torch.empty(()))

    def forward(self, x: Tensor) -> Tensor:
        rising = functional.softplus(self.alpha_p)
        falling = self.beta + functional.softplus(self.alpha_n)
        below = torch.expm1(x.clamp(max=0)) - x
        return torch.where(x > 0, rising * x * x, falling * below) + self.beta * x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "swish": functional.silu,
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x).square(),
}


def activation_of(config: Config, recipe: Recipe) -> Callable[[Tensor], Tensor]:
    """What stands between the matrices of an MLP.

    Raises:
        NotDefinedError: config.json names another one.
    """
    name = str(entry(config, recipe.activation, config.get("hidden_act")))
    if name == "xielu":
        return XIELU()
    if name not in ACTIVATIONS:
        raise NotDefinedError(f"Activation {name} has no definition here.")
    return ACTIVATIONS[name]


class MLP(nn.Module):
    """`down(act(gate(x)) * up(x))`, arXiv:2002.05202, or `down(act(up(x)))`."""

    def __init__(
        self, config: Config, recipe: Recipe, width: int, has: Callable[[str], bool]
    ) -> None:
        super().__init__()
        hidden = int(entry(config, "hidden_size"))
        self.kind = recipe.mlp
        self.names = recipe.mlp_names
        self.act_fn = activation_of(config, recipe)
        for name in self.names[:-1]:
            size = 2 * width if self.kind == "fused" else width
            self.add_module(name, nn.Linear(hidden, size, bias=has(f"{name}.bias")))
        last = self.names[-1]
        self.add_module(last, nn.Linear(width, hidden, bias=has(f"{last}.bias")))

    def forward(self, x: Tensor) -> Tensor:
        into = [getattr(self, name)(x) for name in self.names[:-1]]
        if self.kind == "fused":  # the gate's rows before the others
            into = list(into[0].chunk(2, dim=-1))
        inner = self.act_fn(into[0])
        return getattr(self, self.names[-1])(inner if len(into) == 1 else inner * into[1])  # type: ignore[no-any-return]


def n_experts(config: Config, recipe: Recipe) -> int:
    """Of one layer; transformers writes some of them under its own name."""
    return int(entry(config, recipe.expert_counts[0], config.get("num_local_experts")))


class Router(nn.Module):
    """Which experts a token gets, and how much of each: logits, weights and numbers of experts."""

    def __init__(self, config: Config, recipe: Recipe, has: Callable[[str], bool]) -> None:
        super().__init__()
        count = n_experts(config, recipe)
        chosen = int(entry(config, recipe.expert_counts[1]))
        self.weight = nn.Parameter(torch.empty(count, int(entry(config, "hidden_size"))))
        self.bias = nn.Parameter(torch.empty(count)) if has("bias") else None
        correction = "e_score_correction_bias"
        self.e_score_correction_bias = nn.Parameter(torch.empty(count)) if has(correction) else None
        self.kind = recipe.experts
        self.top_k = chosen
        rule = recipe.renormalise
        self.norm_topk_prob = bool(entry(config, rule)) if isinstance(rule, str) else rule
        self.groups = int(config.get("n_group") or 1)
        self.kept_groups = int(config.get("topk_group") or 1)
        self.scale = float(config.get("routed_scaling_factor") or 1.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[n, D] to [n, E] logits, [n, K] weights and [n, K] experts, the likeliest first."""
        if self.kind == "sigmoid":
            return self._by_sigmoid(x)
        logits = functional.linear(x, self.weight, self.bias)
        if self.kind == "softmax-of-chosen":
            best = logits.topk(self.top_k, dim=-1)
            return logits, wide(best.values).softmax(-1).to(x.dtype), best.indices
        best = wide(logits).softmax(-1).topk(self.top_k, dim=-1)
        weights = best.values
        if self.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        return logits, weights.to(x.dtype), best.indices

    def _by_sigmoid(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """DeepSeek-V3, arXiv:2412.19437, 2.1.2: chosen by affinity plus bias, within the groups
        whose best two add up to most; weighed by affinity alone.
        """
        logits = functional.linear(wide(x), wide(self.weight))
        affinity = logits.sigmoid()
        ranked = affinity
        if self.e_score_correction_bias is not None:
            ranked = affinity + wide(self.e_score_correction_bias)
        if self.groups > 1:
            grouped = ranked.view(len(ranked), self.groups, -1)
            kept = grouped.topk(2, dim=-1).values.sum(-1).topk(self.kept_groups, dim=-1).indices
            open_groups = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter(
                -1, kept, True
            )
            ranked = grouped.masked_fill(~open_groups[..., None], -math.inf).flatten(-2)
        chosen = ranked.topk(self.top_k, dim=-1).indices
        weights = affinity.gather(-1, chosen)
        if self.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        return logits, (weights * self.scale).to(x.dtype), chosen


class Experts(nn.Module):
    """Gated MLPs side by side; a token gets some of them."""

    is_transposed = False
    is_concatenated = True
    """Rows of `gate_up_proj`: all of the gate, then all of up."""

    def __init__(
        self, count: int, hidden: int, width: int, act: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * width, hidden))
        self.down_proj = nn.Parameter(torch.empty(count, hidden, width))
        self.act_fn = act

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """[n, D], [n, K] and [n, K] to [n, D]."""
        out = torch.zeros_like(x)
        for expert in sorted(set(chosen.flatten().tolist())):
            token, place = (chosen == expert).nonzero(as_tuple=True)
            out.index_add_(0, token, self._one(expert, x[token]) * weights[token, place, None])
        return out

    def _one(self, expert: int, x: Tensor) -> Tensor:
        gate, up = functional.linear(x, self.gate_up_proj[expert]).chunk(2, dim=-1)
        return functional.linear(self.act_fn(gate) * up, self.down_proj[expert])


class GptOssExperts(Experts):
    """gpt-oss (openai/gpt-oss, `swiglu`): clamped, a sharper gate, one added to up; with biases,
    and gate and up by turns.
    """

    is_transposed = True
    is_concatenated = False

    def __init__(self, config: Config, count: int, hidden: int, width: int) -> None:
        nn.Module.__init__(self)
        self.gate_up_proj = nn.Parameter(torch.empty(count, hidden, 2 * width))
        self.gate_up_proj_bias = nn.Parameter(torch.empty(count, 2 * width))
        self.down_proj = nn.Parameter(torch.empty(count, width, hidden))
        self.down_proj_bias = nn.Parameter(torch.empty(count, hidden))
        self.alpha = float(entry(config, "swiglu_alpha", 1.702))
        self.limit = float(entry(config, "swiglu_limit", 7.0))

    def _one(self, expert: int, x: Tensor) -> Tensor:
        both = x @ self.gate_up_proj[expert] + self.gate_up_proj_bias[expert]
        gate = both[..., ::2].clamp(max=self.limit)
        up = both[..., 1::2].clamp(-self.limit, self.limit)
        inner = gate * torch.sigmoid(self.alpha * gate) * (up + 1)
        return inner @ self.down_proj[expert] + self.down_proj_bias[expert]


class MixtureMLP(nn.Module):
    """Router, experts, and the experts that every token gets."""

    def __init__(
        self, config: Config, recipe: Recipe, width: int, has: Callable[[str], bool]
    ) -> None:
        super().__init__()
        hidden = int(entry(config, "hidden_size"))
        count = n_experts(config, recipe)
        router = Router(config, recipe, lambda name: has(f"{recipe.router}.{name}"))
        self.add_module(recipe.router, router)
        self.experts: Any = (
            GptOssExperts(config, count, hidden, width)
            if recipe.experts == "softmax-of-chosen"
            else Experts(count, hidden, width, activation_of(config, recipe))
        )
        self.router_name = recipe.router
        self.shared_name = recipe.shared_experts
        if self.shared_name:
            n_shared = int(entry(config, "n_shared_experts", 1))
            shared = MLP(config, recipe, n_shared * width, lambda n: has(f"{self.shared_name}.{n}"))
            self.add_module(self.shared_name, shared)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        _, weights, chosen = getattr(self, self.router_name)(flat)
        out: Tensor = self.experts(flat, weights, chosen).view_as(x)
        return out + getattr(self, self.shared_name)(x) if self.shared_name else out
