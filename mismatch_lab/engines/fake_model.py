"""A tiny causal mixture-of-experts transformer in numpy, with the module names of transformers.

Computed in float64; what leaves a module is rounded to the grid of the dtype, after a perturbation
of about the size of that rounding, which stands for another order of summation on each side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.engines.fake_numerics import (
    HALF_ULP,
    HEADS,
    LAYERS,
    TOP_K,
    WIDTH,
    Float64,
    seed_of,
    softmax,
    to_grid,
)
from mismatch_lab.engines.tokenise import Tokeniser

Change = Callable[[Float64], Float64]


@dataclass
class Watch:
    """What is recorded in one forward, and which module inputs are replaced."""

    keep: NDArray[np.int64] | None = None
    """Positions whose hidden states are kept; None keeps none."""
    replay: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    hidden: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    router_logits: list[Float64] = field(default_factory=list)
    """[n, E] per layer"""


class FakeModel:
    """Plugins change `weights`, or the arrays of `named_parameters()`, in place.

    Args:
        weights: from `draw_weights`.
        dtype: whose grid activations are rounded to.
        noise: perturbation before rounding, in half units in the last place.
        seed: of that perturbation; another one on each side.
    """

    def __init__(self, weights: dict[str, Float64], dtype: str, noise: float, seed: int) -> None:
        self.weights = weights
        self.dtype = dtype
        self.noise = noise * HALF_ULP[dtype]
        self.seed = seed
        self.changes: Mapping[str, Change] = {}
        """Planted: module name -> what is done to its output."""
        self.watch = Watch()
        self._drawn: dict[str, Float64] = {}

    def named_parameters(self) -> list[tuple[str, Float64]]:
        """As of a torch module."""
        return list(self.weights.items())

    def hidden(self, ids: NDArray[np.int64], watch: Watch) -> Float64:
        """[n] token ids to [n, D] hidden states after the final norm."""
        self.watch = watch
        embedded = self.weights["model.embed_tokens.weight"][ids]
        state = self._leave("model.embed_tokens", embedded)
        for layer in range(LAYERS):
            name = f"model.layers.{layer}"
            state = self._run(name, partial(self._layer, name), state)
        return self._run("model.norm", _rms_norm, state)

    def head(self, hidden: Float64) -> Float64:
        """[n, D] hidden states to [n, V] logits."""
        self.watch = Watch()
        return self._linear("lm_head", hidden)

    def _layer(self, name: str, state: Float64) -> Float64:
        normed = self._run(f"{name}.input_layernorm", _rms_norm, state)
        state = state + self._run(f"{name}.self_attn", partial(self._attend, name), normed)
        normed = self._run(f"{name}.post_attention_layernorm", _rms_norm, state)
        return state + self._run(f"{name}.mlp", partial(self._mix, name), normed)

    def _attend(self, name: str, state: Float64) -> Float64:
        n = len(state)
        query, key, value = (
            self._linear(f"{name}.self_attn.{p}_proj", state).reshape(n, HEADS, -1).swapaxes(0, 1)
            for p in "qkv"
        )  # [HEADS, n, WIDTH / HEADS]
        scores = query @ key.swapaxes(1, 2) / query.shape[-1] ** 0.5
        distance = np.arange(n)[:, None] - np.arange(n)[None, :]
        scores += np.where(distance >= 0, -0.1 * distance, -np.inf)  # ALiBi, causal
        mixed = (softmax(scores) @ value).swapaxes(0, 1).reshape(n, WIDTH)
        return self._linear(f"{name}.self_attn.o_proj", mixed)

    def _mix(self, name: str, state: Float64) -> Float64:
        logits = self._linear(f"{name}.mlp.router", state)
        self.watch.router_logits.append(logits)
        kept = np.where(logits >= np.sort(logits, -1)[:, -TOP_K, None], logits, -np.inf)
        gates = softmax(kept)
        up, down = (self.weights[f"{name}.mlp.experts.{p}_proj"] for p in ("up", "down"))

        def experts(x: Float64) -> Float64:
            each = np.maximum(x @ up, 0.0) @ down  # [EXPERTS, n, WIDTH]
            return np.asarray((gates.T[:, :, None] * each).sum(axis=0))

        return self._run(f"{name}.mlp.experts", experts, state)

    def _linear(self, name: str, state: Float64) -> Float64:
        return self._run(name, lambda x: x @ self.weights[f"{name}.weight"].T, state)

    def _run(self, name: str, function: Change, state: Float64) -> Float64:
        key = f"{name}:in"
        if key in self.watch.replay:
            state = self.watch.replay[key].astype(np.float64).reshape(state.shape)
        self._record(key, state)
        return self._leave(name, function(state))

    def _leave(self, name: str, output: Float64) -> Float64:
        if name in self.changes:
            output = self.changes[name](output)
        output = to_grid(output * (1.0 + self.noise * self._normal(name, output)), self.dtype)
        self._record(name, output)
        return output

    def _record(self, name: str, state: Float64) -> None:
        if self.watch.keep is not None and len(state) > self.watch.keep.max(initial=-1):
            self.watch.hidden[name] = state[self.watch.keep].astype(np.float32)

    def _normal(self, name: str, like: Float64) -> Float64:
        """[n, D]; the same at a position however many tokens follow it."""
        if len(self._drawn.get(name, ())) < len(like):
            rng = np.random.default_rng(seed_of(self.seed, name))
            self._drawn[name] = rng.normal(size=(2 * len(like), like.shape[1]))
        return self._drawn[name][: len(like)]


def _rms_norm(state: Float64) -> Float64:
    return np.asarray(state / np.sqrt((state**2).mean(axis=-1, keepdims=True) + 1e-6))


EOS = 0


class ByteTokeniser(Tokeniser):
    """ASCII bytes; the token with id 0 ends an answer."""

    def __init__(self) -> None:
        self._tokenizer = _Bytes()
        self.eos_ids = {EOS}


class _Bytes:
    """As much of a transformers tokenizer as Tokeniser asks for."""

    chat_template = None

    def __call__(self, text: str, add_special_tokens: bool = True) -> SimpleNamespace:
        return SimpleNamespace(input_ids=list(text.encode("ascii", "replace")))

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("ascii")
