"""A causal language model put together by its recipe, with the checkpoint's own tensors in it.

Modules carry the names that transformers gives theirs, so that what is recorded of both compares.
Of transformers itself there are the two containers of outputs, and nothing that computes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from mismatch_lab.definitions.modules import MLP, Attention, LayerNorm, MixtureMLP, RMSNorm
from mismatch_lab.definitions.recipes import (
    Config,
    Recipe,
    entry,
    layer_kinds,
    layer_windows,
    recipe_for,
    rotary_layers,
    scale_of,
)
from mismatch_lab.definitions.rotary import RotaryEmbedding, parameters_of
from mismatch_lab.definitions.tensors import CheckpointTensors
from mismatch_lab.errors import NotDefinedError

EPSILONS = ("rms_norm_eps", "layer_norm_eps", "norm_epsilon", "norm_eps")
"""Names that config.json files have for the epsilon of norms."""

Has = Callable[[str], bool]


class Layer(nn.Module):
    """One decoder layer: attention and MLP, each added to what it was given."""

    def __init__(self, model: _Parts, number: int) -> None:
        super().__init__()
        config, recipe = model.config, model.recipe
        self.order, self.norms = recipe.order, recipe.norms
        self.residual_scale = scale_of(config, recipe.residual_scale)

        def has(name: str) -> bool:
            return model.has(f"model.layers.{number}.{name}")

        for name in recipe.norms:
            self.add_module(name, model.norm((model.hidden,), bias=has(f"{name}.bias")))
        self.self_attn = Attention(
            config,
            recipe,
            model.rotary_of(number),
            model.windows[number],
            model.norm,
            lambda name: has(f"self_attn.{name}"),
            number,
        )
        self.mlp = model.mlp(number, lambda name: has(f"mlp.{name}"))

    def forward(self, hidden_states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x, norms = hidden_states, [getattr(self, name) for name in self.norms]
        attend = partial(self.self_attn, cos=cos, sin=sin)
        if self.order == "parallel":
            normed = norms[0](x)
            return x + attend(normed) + self.mlp(normed)  # type: ignore[no-any-return]
        if self.order == "post":
            x = x + norms[0](attend(x))
            return x + norms[1](self.mlp(x))  # type: ignore[no-any-return]
        if self.order == "both":
            x = x + norms[1](attend(norms[0](x)))
            return x + norms[3](self.mlp(norms[2](x)))  # type: ignore[no-any-return]
        x = x + attend(norms[0](x)) * self.residual_scale
        return x + self.mlp(norms[1](x)) * self.residual_scale  # type: ignore[no-any-return]


class _Parts:
    """What layers are made of."""

    def __init__(self, config: Config, recipe: Recipe, has: Has) -> None:
        self.config, self.recipe, self.has = config, recipe, has
        self.hidden = int(entry(config, "hidden_size"))
        self.windows = layer_windows(config, recipe)
        self.kinds = layer_kinds(config, recipe)
        self.turning = rotary_layers(config, recipe)
        heads = int(entry(config, "num_attention_heads"))
        head_dim = int(entry(config, "head_dim", self.hidden // heads))
        context = int(entry(config, "max_position_embeddings"))
        self.rotary = {
            kind: RotaryEmbedding(parameters_of(config, kind), head_dim, context, recipe.pairs)
            for kind in sorted(set(self.kinds))
        }

    def rotary_of(self, number: int) -> RotaryEmbedding | None:
        return self.rotary[self.kinds[number]] if self.turning[number] else None

    def norm(self, shape: tuple[int, ...], bias: bool = False) -> nn.Module:
        eps = next((self.config[n] for n in EPSILONS if self.config.get(n) is not None), None)
        epsilon = float(entry({"the epsilon of norms": eps}, "the epsilon of norms"))
        if self.recipe.norm == "rms":
            return RMSNorm(shape, epsilon, self.recipe.norm_offset)
        return LayerNorm(shape, epsilon, self.recipe.norm_offset, bias)

    def mlp(self, number: int, has: Has) -> nn.Module:
        width = int(entry(self.config, "intermediate_size"))
        dense = int(self.config.get(self.recipe.dense_until) or 0)
        if not self.recipe.experts or number < dense:
            return MLP(self.config, self.recipe, width, has)
        width = int(self.config.get("moe_intermediate_size") or width)
        return MixtureMLP(self.config, self.recipe, width, has)


class Body(nn.Module):
    """Embedding, layers, final norm."""

    def __init__(self, parts: _Parts) -> None:
        super().__init__()
        config, recipe = parts.config, parts.recipe
        self.embed_tokens = nn.Embedding(int(entry(config, "vocab_size")), parts.hidden)
        self.embedding_scale = scale_of(config, recipe.embedding_scale)
        self.kinds = parts.kinds
        self.rotary_emb = nn.ModuleDict(parts.rotary)
        count = int(entry(config, "num_hidden_layers"))
        self.layers = nn.ModuleList(Layer(parts, number) for number in range(count))
        self.norm = parts.norm((parts.hidden,), bias=parts.has("model.norm.bias"))

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> BaseModelOutput:
        x = self.embed_tokens(input_ids)
        # As they are trained in half precision: the scale is a number of that precision too.
        x = x * torch.tensor(self.embedding_scale, dtype=x.dtype)
        tables = {kind: rotary(x, position_ids) for kind, rotary in self.rotary_emb.items()}
        for kind, layer in zip(self.kinds, self.layers, strict=True):
            x = layer(x, *tables[kind])
        return BaseModelOutput(last_hidden_state=self.norm(x))


class Definition(nn.Module):
    """A model by its definition; it is called as transformers' models are."""

    def __init__(self, config: Config, recipe: Recipe, has: Has) -> None:
        super().__init__()
        parts = _Parts(config, recipe, has)
        self.model = Body(parts)
        vocabulary = int(entry(config, "vocab_size"))
        self.lm_head = nn.Linear(parts.hidden, vocabulary, bias=has("lm_head.bias"))
        self.logit_scale = scale_of(config, recipe.logit_scale)
        cap = config.get(recipe.logit_softcap) if recipe.logit_softcap else None
        text = SimpleNamespace(**{**config, "final_logit_softcapping": cap})
        self.config = SimpleNamespace(get_text_config=lambda: text)

    @property
    def base_model(self) -> nn.Module:
        """All but the head."""
        return self.model

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.lm_head

    def get_input_embeddings(self) -> nn.Module:
        """The embedding."""
        return self.model.embed_tokens

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        logits_to_keep: int = 0,
        **_options: Any,
    ) -> CausalLMOutput:
        """Logits [B, n, V] of ids [B, n], padded on the right if at all: no token sees padding."""
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        hidden = self.model(input_ids, position_ids).last_hidden_state
        logits = self.lm_head(hidden[:, -logits_to_keep:]) * self.logit_scale
        cap = self.config.get_text_config().final_logit_softcapping
        if cap is not None:
            logits = torch.tanh(logits / cap) * cap
        return CausalLMOutput(logits=logits)


def load_definition(folder: Path, config: Config, dtype: torch.dtype) -> Definition:
    """The model of a checkpoint folder, in evaluation mode on the CPU.

    Args:
        folder: with `*.safetensors`.
        config: config.json, its language model's part.
        dtype: of weights and activations.

    Raises:
        NotDefinedError: no recipe for the architecture, or something that the recipe does not know.
    """
    recipe = recipe_for(config)
    with CheckpointTensors(folder, recipe) as tensors:
        with torch.device("meta"):
            model = Definition(config, recipe, tensors.has)
        for name, parameter in list(model.named_parameters()):
            if name == "lm_head.weight" and not tensors.has(name):
                continue
            value = tensors.get(name)
            if value.shape != parameter.shape:
                raise NotDefinedError(
                    f"{name} has shape {tuple(value.shape)} in the checkpoint, and by its "
                    f"definition {tuple(parameter.shape)}."
                )
            owner, _, leaf = name.rpartition(".")
            held = nn.Parameter(value.to(dtype), requires_grad=False)
            setattr(model.get_submodule(owner), leaf, held)
    if model.lm_head.weight.is_meta:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.eval()
